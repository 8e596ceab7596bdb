"""What README and docs say of the code is so: links, paths, options, targets, phases, events, fixes, frames."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from livep2v.host.virtualize.repair import FIXES
from livep2v.wire import frames

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
IN_TREE = re.compile(r"(?:livep2v|tests|docs|bench|lab|scripts)/[\w./-]+(?:::\w+)?")


def by_name(path: Path) -> str:
    return path.name


def rows(page: str, header: str) -> list[list[str]]:
    """Rows of the table whose header row begins with ``header``, as cells."""
    lines = iter((ROOT / "docs" / page).read_text().splitlines())
    assert any(line.startswith(header) for line in lines), f"{page}: no table {header}"
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            assert (page.parent / path).exists(), f"{page.name}: {target}"
            assert not anchor, f"{page.name}: {target}: headings are not checked, so link to pages"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_files_that_are_named_exist(page: Path) -> None:
    for code in CODE.findall(page.read_text()):
        for named in IN_TREE.findall(code) if IN_TREE.match(code) else []:
            path, _, test = named.partition("::")
            assert (ROOT / path).exists(), f"{page.name}: {named}"
            assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{page.name}: {named}"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_no_path_of_a_developer_machine(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"(?<![\w.])/(?:home|root|work|Users)/\w", text) is None
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for page in PAGES:
        named = set(re.findall(r"(?m)(?:`|^    )make ([a-z][a-z-]*)", page.read_text()))
        assert named <= targets, f"{page.name}: {named - targets}"


# ---------------------------------------------------------------- the command line


def options(verb: str) -> set[str]:
    """What ``livep2v VERB --help`` lists."""
    words = [verb] if verb else []
    program = "import sys; from livep2v.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--help"],
        cwd=ROOT, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(OPTION.findall(done.stdout))


def test_options_in_the_readme_are_those_of_the_command() -> None:
    known = options("") | options("inspect") | options("convert")
    shown = set(OPTION.findall((ROOT / "README.md").read_text()))
    assert shown <= known, f"not in --help: {shown - known}"
    missing = options("convert") - shown - {"--help", "--boot-check"}  # shown as --no-boot-check
    assert not missing, f"not in the README: {missing}"


def test_options_of_convert_in_the_docs_exist() -> None:
    """Other programs' options stand beside the program's name; an option alone in code is ours."""
    known = options("") | options("inspect") | options("convert") | {"--runs"}
    for page in PAGES:
        for code in CODE.findall(page.read_text()):
            if code.startswith(("--", "livep2v ")):
                assert set(OPTION.findall(code)) <= known, f"{page.name}: {code}"


# ---------------------------------------------------------------- tables that mirror the code


def calls() -> Iterator[ast.Call]:
    for path in sorted((ROOT / "livep2v").rglob("*.py")):
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def callee(call: ast.Call) -> str:
    function = call.func.func if isinstance(call.func, ast.Call) else call.func  # JsonPrinter(stream)("error", ...)
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def text_argument(call: ast.Call) -> str:
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def test_events_are_those_of_the_code() -> None:
    told = {text_argument(call) for call in calls() if callee(call) in ("progress", "_progress", "JsonPrinter")} - {""}
    listed = {cell for row in rows("events.md", "| event |") for cell in CODE.findall(row[0])}
    assert listed == told


def test_phases_are_those_of_the_conversion() -> None:
    tree = ast.parse((ROOT / "livep2v/convert.py").read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and callee(node) == "step"]
    steps = [text_argument(call) for call in sorted(found, key=lambda call: call.lineno)]
    assert [row[0] for row in rows("flow.md", "| phase |") if row[0]] == [
        f"{number} {step}" for number, step in enumerate(steps, 1)
    ]


def test_fixes_are_those_of_the_repair() -> None:
    listed = [(row[0].strip("`"), row[1] == "yes") for row in rows("repair.md", "| fix |")]
    assert listed == [(fix.NAME, fix.CRITICAL) for fix in FIXES]


def test_kinds_are_those_of_the_wire() -> None:
    listed = [(row[0], int(row[1])) for row in rows("wire.md", "| kind |")]
    assert sorted(number for _, number in listed) == list(frames.KINDS)
    assert all(getattr(frames, name) == number for name, number in listed)
