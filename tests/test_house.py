"""The walls: which room may import which, and that the door notices an intruder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import assay

MAY_IMPORT = {
    "compile": set(),
    "reports": set(),
    "quantize": {"compile"},
    "runtimes": {"compile"},
    "suites": {"compile", "quantize", "runtimes", "reports"},
}
ROOT = Path(assay.__file__).parent


def imported_rooms(source: str) -> set[str]:
    """Rooms that a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names & set(MAY_IMPORT)


def test_every_room_of_the_house_is_held_to_its_arrows():
    assert set(MAY_IMPORT) == set(assay.ROOMS)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_room_imports_only_the_rooms_below_it(room):
    allowed = MAY_IMPORT[room] | {room}
    wrong = {
        str(path.relative_to(ROOT)): sorted(extra)
        for path in sorted((ROOT / room).rglob("*.py"))
        if (extra := imported_rooms(path.read_text()) - allowed)
    }
    assert wrong == {}


def test_an_import_inside_a_function_counts():
    assert imported_rooms("def f():\n    from suites.run import run\n") == {"suites"}


def test_door_names_the_intruder_when_a_room_is_shadowed(tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "__init__.py").write_text("raise SystemExit('an intruder ran')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-P", "-c", "import sys, assay; sys.exit(assay.main())", "doctor"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert str(tmp_path / "reports") in result.stderr
    assert "an intruder ran" not in result.stderr


@pytest.mark.parametrize("module", ["suites.cli", "suites.run", "quantize.recipe", "reports"])
def test_main_process_imports_no_heavy_library(module):
    code = f"import sys, {module}; print(*(m for m in sys.modules if '.' not in m))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    heavy = {"torch", "transformers", "onnxruntime", "openvino", "onnx", "optimum"}
    assert heavy & set(result.stdout.split()) == set()
