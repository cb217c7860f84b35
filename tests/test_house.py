"""The directions in which imports may point, and that importing the engine does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import essence

ROOT = Path(__file__).parents[1]
# From the ground up: a room may import itself and what lies below.
FLOORS = [
    ("errors",),
    ("runtime",),
    ("ops",),
    ("pictures",),
    ("models",),
    ("library",),
    ("values",),
    ("methods",),
    ("studio",),
    ("studio_pool",),
    ("train",),
    ("evaluate",),
    ("public",),
    ("cli", "__init__", "__main__"),
]
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names}
LONGEST = 350  # lines of a file
ENGINE = sorted((ROOT / "essence").rglob("*.py"))
PAGE = sorted((ROOT / "demo").rglob("*.py"))
EVERYTHING = [*ENGINE, *PAGE, ROOT / "app.py", *sorted((ROOT / "benchmarks").glob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """Full dotted names that a file imports anywhere in it, also for type checkers alone."""
    found, here = set(), path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            base = [*here[: -node.level], *module] if node.level else module
            found |= {".".join([*filter(None, base), alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_imports_point_down(path):
    here = path.relative_to(ROOT / "essence").parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in ("gradio", "demo", "app"), f"the engine imports {name}"
        if parts[0] == "essence" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[here], f"{here} imports {name}"


def test_every_room_has_its_floor():
    rooms = {path.relative_to(ROOT / "essence").parts[0].removesuffix(".py") for path in ENGINE}
    assert rooms == set(RANK)


def test_no_module_imports_itself_in_a_circle():
    """Also not through imports that only type checkers follow."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ENGINE + PAGE
    }

    def resolve(name: str) -> str | None:
        """The module that a dotted name lies in."""
        parts = name.split(".")
        candidates = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        tried = (each for name in candidates for each in (name, f"{name}.__init__"))
        return next((each for each in tried if each in modules), None)

    graph = {
        module: {resolve(name) for name in imported(path)} - {None, module}
        for module, path in modules.items()
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in graph[module]:
                # A package's __init__ gathers its modules; they may name their own package.
                if not (
                    other.endswith("__init__") and module.startswith(other[: -len("__init__")])
                ):
                    visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", PAGE, ids=name_of)
def test_the_page_uses_the_public_names_only(path):
    for name in imported(path):
        if name.startswith("essence."):
            assert name.removeprefix("essence.") in essence.__all__, name


@pytest.mark.parametrize("name", essence.__all__)
def test_every_public_name_is_there(name):
    assert hasattr(essence, name)


def test_the_start_of_the_page_takes_nothing_from_the_command_line():
    names = imported(ROOT / "app.py")
    assert not [name for name in names if name.startswith("essence.cli")]


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_files_can_be_read_in_one_go(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST
    assert not [number for number, line in enumerate(lines, 1) if len(line) > 100]


@pytest.mark.parametrize(
    "work, heavy",
    [
        (
            "import essence, torch; assert not torch.cuda.is_initialized()",
            {"dlib", "open_clip", "gradio", "face_recognition_models"},
        ),
        (
            "from essence import Studio; assert Studio('mini', 'cpu').models.clip",
            {"open_clip", "torchvision", "timm", "sympy"},
        ),
    ],
    ids=["importing", "loading"],
)
def test_nothing_comes_that_takes_seconds_to_import(work, heavy):
    code = f"import sys; {work}; found = {heavy} & set(sys.modules); assert not found, found"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == run.stderr == ""
