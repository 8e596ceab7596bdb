"""The house rules that a program can check, as ordinary tests."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TYPED = ("livep2v", "lab", "bench")
MAX_LINES = 600

# What runs on the machine that is being converted: Python 3.6 and its standard library, nothing else
SOURCE_SIDE = (
    "livep2v/__init__.py",
    "livep2v/errors.py",
    "livep2v/model.py",
    "livep2v/hardware_services.py",
    "livep2v/source",
    "livep2v/wire",
    "livep2v/formats",
)

# Imports go one way: a module may import its own layer and lower ones. source and host have the same height and may not
# import each other; parties.py is Protocols over the records and may be imported by both.
LAYERS = (
    ("__init__", "errors", "model", "hardware_services"),
    ("formats",),
    ("wire", "parties"),
    ("source", "host"),
    ("plan", "convert"),
    ("report", "cli", "__main__"),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
STRANGERS = {("source", "host"), ("host", "source")}


def modules(*folders: str) -> list[Path]:
    """Python files below the folders, or the files themselves."""
    found: list[Path] = []
    for name in folders:
        path = ROOT / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


def identity(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tool(*argv: str) -> None:
    """Run a linter of our environment; what it says is the failure."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv[:4])}:\n{done.stdout}{done.stderr}"


def test_ruff() -> None:
    tool(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


@pytest.mark.timeout(600)
def test_mypy_strict() -> None:
    folders = [name for name in TYPED if modules(name)]
    tool(sys.executable, "-m", "mypy", *folders)


class WithoutLocalAnnotations(ast.NodeTransformer):
    """Annotations of variables inside functions are never evaluated (PEP 526), so they may name what 3.6 does not have."""

    depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not self.depth:
            return node
        return ast.Assign([node.target], node.value) if node.value is not None else ast.Pass()


def test_vermin_python_3_6(tmp_path: Path) -> None:
    """No API of the standard library that came after 3.6, nor in an annotation that is evaluated."""
    for path in modules(*SOURCE_SIDE):
        copy = tmp_path / identity(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        tree = WithoutLocalAnnotations().visit(ast.parse(path.read_text()))
        copy.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    vermin = str(Path(sys.executable).with_name("vermin"))
    tool(vermin, "--quiet", "--no-tips", "--violations", "--target=3.6-", "--eval-annotations", str(tmp_path))


@pytest.mark.parametrize("path", modules(*SOURCE_SIDE), ids=identity)
def test_syntax_of_python_3_6(path: Path) -> None:
    ast.parse(path.read_text(), filename=str(path), feature_version=(3, 6))


@pytest.mark.parametrize("path", modules(*TYPED, "tests"), ids=identity)
def test_length(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines, {MAX_LINES} are allowed: split it by what it is about"


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a module imports anywhere in it, relative ones resolved; for ``from a import b`` both
    ``a`` and ``a.b``, since ``b`` may be a module. What stands under ``if TYPE_CHECKING:`` is not imported when it runs."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found.add(name)
            found.update(f"{name}.{alias.name}" for alias in node.names)
    return found


def layer(dotted: str) -> str | None:
    """The layer of a module of livep2v, None for others and for the bare package."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "livep2v" and len(parts) > 1 and parts[1] in HEIGHT else None


@pytest.mark.parametrize("path", modules("livep2v"), ids=identity)
def test_layers(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = parts[1]
    assert own in HEIGHT, f"{own} is in no layer: add it to LAYERS"
    for name in imports(path):
        other = layer(name)
        if other is None:
            continue
        assert HEIGHT[other] <= HEIGHT[own], f"{own} must not import {name}: it is in a higher layer"
        assert (own, other) not in STRANGERS, f"{own} must not import {name}: the parties know each other by parties.py"


@pytest.mark.parametrize("path", modules(*SOURCE_SIDE), ids=identity)
def test_source_side_imports_the_standard_library_only(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"livep2v"}
    assert not foreign, f"not in the standard library: {', '.join(sorted(foreign))}"


@pytest.mark.parametrize("path", modules(*SOURCE_SIDE), ids=identity)
def test_source_side_imports_its_own_kind_only(path: Path) -> None:
    """Only what the zipapp holds."""
    shipped = {Path(name).stem for name in SOURCE_SIDE}
    ours = {name for name in imports(path) if name.startswith("livep2v.")}
    strangers = {name for name in ours if layer(name) is not None and layer(name) not in shipped}
    assert not strangers, f"not shipped to the source: {', '.join(sorted(strangers))}"


@pytest.mark.parametrize("path", modules("lab"), ids=identity)
def test_the_lab_is_not_part_of_the_product(path: Path) -> None:
    """The lab stands for the outside world: of the product it may use its public records and its door to programs, no more."""
    allowed = ("livep2v.errors", "livep2v.model", "livep2v.host.run", "livep2v.host.qmp")
    used = {name for name in imports(path) if name.startswith("livep2v.")}
    strangers = {name for name in used if not name.startswith(allowed) and name not in ("livep2v.host",)}
    assert not strangers, f"not for the lab: {', '.join(sorted(strangers))}"


@pytest.mark.parametrize("path", modules("livep2v"), ids=identity)
def test_the_product_does_not_know_its_lab(path: Path) -> None:
    known = {name.split(".")[0] for name in imports(path)} & {"lab", "bench", "tests"}
    assert not known, f"imports {', '.join(known)}"
