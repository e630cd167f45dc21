"""The door, from outside: pytest in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401 - an inner run forgets what it imported, and these cannot be imported twice
import pyarrow.pandas_compat  # noqa: F401
import pytest

import reports

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
USAGE_ERROR = 4


def outside(pytester: pytest.Pytester, *arguments: str, path: str = str(ROOT)) -> Any:
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "assay", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=pytester.path,
    )


def test_pytest_without_assay_imports_none_of_the_rooms(pytester):
    pytester.makepyfile("""
        import sys

        def test_modules():
            rooms = {"compile", "quantize", "runtimes", "suites", "reports"}
            assert not (rooms | {"numpy", "pandas", "rich", "torch"}) & set(sys.modules)
            assert "assay" in sys.modules
    """)
    done = outside(pytester)
    assert done.returncode == 0, done.stdout


def test_options_without_a_suite_are_a_usage_error(pytester):
    done = outside(pytester, "--assay-out", "x")
    assert done.returncode == USAGE_ERROR
    assert done.stderr.strip() == "ERROR: --assay-out belongs to --assay SUITE"


def test_intruder_is_named_before_it_is_imported(pytester):
    package = pytester.mkpydir("suites")
    package.joinpath("__init__.py").write_text("raise SystemExit('an intruder ran')")
    path = os.pathsep.join([str(pytester.path), str(ROOT)])
    done = outside(pytester, "--assay", "quickstart", path=path)
    assert done.returncode == USAGE_ERROR
    assert f"the package 'suites' is found at {package}" in done.stderr
    assert "an intruder ran" not in done.stdout + done.stderr


def test_plugin_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"assay": "assay"}
    assert {r.partition(">")[0] for r in project["optional-dependencies"]["pytest"]} == {
        "pytest",
        "pytest-benchmark",
    }


def test_sessions_of_known_latency_become_benchmarks(suite_file, tmp_path, pytester):
    """From end to end, through real sessions of the fake runtime."""
    suite = suite_file("latency_ms = 4.0")
    text = suite.read_text().replace('["one", "two"]', '["two"]')
    suite.write_text(text.replace("max_seconds = 1.0", "max_seconds = 0.3"))
    out, told = tmp_path / "out", tmp_path / "b.json"
    done = outside(
        pytester,
        *("--assay", str(suite), "--assay-out", str(out), "--benchmark-json", str(told)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert str(out / "report.html") in done.stdout
    results = reports.load(out)
    (row,) = results.rows
    (found,) = json.loads(told.read_text())["benchmarks"]
    samples = results.samples_of(row["cell_id"])
    kept = samples.loc[samples["phase"] == "sample", "latency_ns"].to_numpy()
    assert [round(second * 1e9) for second in found["stats"]["data"]] == kept.tolist()
    assert round(2e9 * found["stats"]["median"]) == round(2 * np.median(kept))
    assert found["stats"]["min"] >= 0.004
    assert found["extra_info"]["samples"] == row["samples"] == len(kept)
