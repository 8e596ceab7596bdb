"""docs/exit-codes.md and docs/faults.md against the code: complete, true, and every test that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import livep2v.errors as errors
from livep2v.cli.app import app
from livep2v.errors import Livep2vError, all_errors

DOCS = Path(__file__).resolve().parents[2] / "docs"
TESTS = DOCS.parent / "tests"
TREE = re.compile(r"^[|` -]*(\w+) +(\d+)   (\S.*)$", re.M)


def ours() -> dict[str, type[Livep2vError]]:
    return {name: cls for name, cls in all_errors().items() if cls.__module__ == errors.__name__}


def table(page: str) -> list[list[str]]:
    """Rows of the first table of a page, as cells."""
    lines = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    assert errors.__doc__ is not None
    drawn = {name: int(code) for name, code, _ in TREE.findall(errors.__doc__)}
    assert drawn == {name: cls.exit_code for name, cls in ours().items()}
    assert len(set(drawn.values())) == len(drawn), "each its own code"


def test_the_page_has_every_error_with_its_code_and_sentence() -> None:
    assert errors.__doc__ is not None
    when = {name: text for name, _, text in TREE.findall(errors.__doc__)}
    wanted = [
        [str(cls.exit_code), f"`{name}`", when[name], cls.msg.replace("|", "\\|")]
        for name, cls in sorted(ours().items(), key=lambda item: item[1].exit_code)
    ]
    assert table("exit-codes.md") == wanted


def test_the_help_gives_the_ranges() -> None:
    """``livep2v --help`` ends with them: each error lies in one of them, each range has one."""
    ranges = [
        range(int(low), int(high or low) + 1) for low, high in re.findall(r"\b(\d+)(?:-(\d+))? [a-z]", str(app.info.epilog))
    ]
    codes = {0, *(cls.exit_code for cls in ours().values())} - {1}
    assert all(any(code in one for one in ranges) for code in codes)
    assert all(codes & set(one) for one in ranges)


def test_every_fault_has_its_test_and_a_true_code() -> None:
    rows = table("faults.md")
    assert len(rows) >= 20
    classes = ours()
    for fault, _happens, _source, _host, code, test in rows:
        for number, name in re.findall(r"(\d+) `(\w+)`", code):
            assert classes[name].exit_code == int(number), fault
        named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", test)
        assert named, fault
        for file, function in named:
            assert f"def {function}(" in (TESTS / file).read_text(), f"{fault}: {file}::{function}"
