"""The import arrows of the design."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"training", "export", "handler", "deploy", "client", "benchmarks", "tests"}
ALLOWED = {
    "handler": {"handler"},
    "training": {"training", "handler.hardware", "handler.latents", "handler.pixels"},
    "export": {"export", "training", "handler"},
    "deploy": {"deploy", "client"},
    "client": {"client"},
    "benchmarks": {"benchmarks", "client", "deploy", "export", "handler", "training"},
}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, the names of ``from x import y`` included as ``x.y``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in OURS}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_they_may(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported(path)
        if not any(name == good or name.startswith(good + ".") for good in ALLOWED[package])
    ]
    assert wrong == []


def test_nobody_looks_into_training_for_a_helper() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert not any(name.startswith("training.files") for name in imported(path)), path


def test_the_entry_is_one_class_without_logic() -> None:
    tree = ast.parse((ROOT / "handler" / "dcgan_handler.py").read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    branches = [node for node in ast.walk(tree) if isinstance(node, ast.If | ast.Try | ast.While)]
    assert len(classes) == 1
    assert branches == []


def test_torchscript_is_touched_in_one_module_a_side() -> None:
    """It is deprecated: what uses it must be easy to find."""
    found = {
        str(path.relative_to(ROOT))
        for package in ("export", "handler", "training")
        for path in (ROOT / package).rglob("*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr == "jit"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }
    assert found == {"export/models.py", "handler/backends/torchscript.py"}
