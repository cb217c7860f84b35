"""The directions in which imports may point, and that importing the engine does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    ("errors",),
    ("formats", "ops", "images", "latents", "machine", "catalogue", "pickles"),
    ("types",),
    ("models",),
    ("losses", "align", "metrics", "checkpoints", "nvidia"),
    ("model_set", "fetch"),
    ("methods", "registry"),
    ("studio",),
    ("studios",),
    ("train",),
    ("cli", "cli_models", "__init__", "__main__"),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """Modules of `essence` that a file imports, by the first part of their name inside the
    package.
    """
    found, here = set(), path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = (
                [*here[: -node.level], *(node.module or "").split(".")]
                if node.level
                else (node.module or "").split(".")
            )
            names = [[*filter(None, base), alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {".".join(name) for name in names}
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "essence").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_point_down(path):
    here = path.relative_to(ROOT / "essence").parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in ("gradio", "demo", "app"), f"the engine imports {name}"
        if parts[0] == "essence" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[here], f"{here} imports {name}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "demo").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_page_uses_the_public_names_only(path):
    inner = [name for name in imported(path) if name.startswith("essence.") and name.count(".") > 1]
    assert not inner


def test_importing_does_nothing():
    code = (
        "import sys, essence, torch;"
        "assert not torch.cuda.is_initialized();"
        "heavy = {'dlib', 'open_clip', 'gradio', 'face_recognition_models'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == run.stderr == ""
