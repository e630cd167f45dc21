"""How each benchmark is asked to measure a cell: as its documentation says, in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import reports
from reports.errors import ReportError
from runtimes.process import THREAD_VARIABLES
from scripts.bare_loop import SEQUENCE, VOCABULARY, BareLoop
from scripts.peers import readings
from scripts.peers.readings import NoLatency

CELLS = {"one": 1, "eight": 8}
"""Name -> batch; each of 128 tokens."""
PATIENCE_S = 300
BARE_CALLS_S = 1.0
"""How long the bare loop of a turn of its own calls."""
LAUNCHERS = ("process", "inline")

SUITE = """
threads = {threads}
[matrix]
model = ["bert"]
runtime = ["torch-eager"]
workload = ["one", "eight"]
[models.bert]
source = "{model}"
"""

PYTEST_FILE = """
import numpy as np
import torch
import transformers

def test_cell(benchmark):
    model = transformers.AutoModel.from_pretrained({model!r}).eval()
    shape = ({batch}, {sequence})
    ids = np.random.default_rng(0).integers(0, {vocabulary}, shape)
    feeds = dict(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.ones(shape, dtype=torch.int64),
        token_type_ids=torch.zeros(shape, dtype=torch.int64),
    )
    with torch.inference_mode():
        benchmark(model, **feeds)
"""

OPTIMUM_PROGRAM = """
from optimum_benchmark import (
    Benchmark, BenchmarkConfig, InferenceConfig, InlineConfig, ProcessConfig, PyTorchConfig
)

if __name__ == "__main__":
    config = BenchmarkConfig(
        name="cell",
        launcher=dict(process=ProcessConfig, inline=InlineConfig)[{launcher!r}](),
        scenario=InferenceConfig(
            input_shapes=dict(batch_size={batch}, sequence_length={sequence})
        ),
        backend=PyTorchConfig(
            model={model!r}, device="cpu", task="feature-extraction",
            library="transformers", model_type="bert",
        ),
    )
    Benchmark.launch(config).save_json("report.json")
"""


@dataclass(frozen=True)
class Site:
    """What every contender is given."""

    model: Path
    """A transformers folder."""
    threads: int
    home: Path
    """Assay's store."""
    optimum_python: Path
    """Interpreter of the environment in which optimum-benchmark lives."""


@dataclass(frozen=True)
class Contender:
    name: str
    python: str
    """Interpreter of its environment: the bare loop that it is compared with runs under it."""
    measure: Callable[[str, Path], float]
    """A cell's name and an empty folder -> the latency that it reports, in ms, or NoLatency."""


def contenders(site: Site) -> list[Contender]:
    ours, theirs = sys.executable, str(site.optimum_python)
    return [
        Contender("Assay", ours, lambda cell, folder: _assay(site, cell, folder)),
        Contender("bare loop", ours, lambda cell, folder: _bare(site, cell)),
        Contender(
            "pytest-benchmark", ours, lambda cell, folder: _pytest_benchmark(site, cell, folder)
        ),
        *(
            Contender(
                f"optimum-benchmark, {launcher}",
                theirs,
                lambda cell, folder, launcher=launcher: _optimum(site, cell, folder, launcher),
            )
            for launcher in LAUNCHERS
        ),
    ]


def _assay(site: Site, cell: str, folder: Path) -> float:
    suite = SUITE.format(threads=site.threads, model=site.model)
    for name, batch in CELLS.items():
        suite += f"[workloads.{name}]\nbatch = {batch}\nsequence = {SEQUENCE}\n"
    (folder / "suite.toml").write_text(suite)
    command = [sys.executable, "-P", "-m", "assay", "run", "suite.toml"]
    # With code 4 no cell was measured: its row says what was the matter, if there is one.
    words = _run([*command, "--only", cell, "--out", "results"], site, folder, endings=(0, 4))
    try:
        row = reports.load(folder / "results").cells.iloc[0]
    except (ReportError, IndexError) as error:
        raise NoLatency(f"no row: {words}") from error
    return readings.assay({key: None if pd.isna(row[key]) else row[key] for key in row.index})


def _bare(site: Site, cell: str) -> float:
    loop = BareLoop(site.model, "transformers", CELLS[cell], site.threads, settled=False)
    calls = max(5, int(BARE_CALLS_S * 1e3 / loop.turn(5)))
    median = loop.turn(calls)
    loop.end()
    return median


def _pytest_benchmark(site: Site, cell: str, folder: Path) -> float:
    text = PYTEST_FILE.format(
        model=str(site.model), batch=CELLS[cell], sequence=SEQUENCE, vocabulary=VOCABULARY
    )
    (folder / "test_cell.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-json", "report.json"]
    _run(command, site, folder)
    return readings.pytest_benchmark(json.loads((folder / "report.json").read_text()))


def _optimum(site: Site, cell: str, folder: Path, launcher: str) -> float:
    if not site.optimum_python.is_file():
        raise NoLatency(f"there is no environment of its own: {site.optimum_python} is missing")
    text = OPTIMUM_PROGRAM.format(
        model=str(site.model), batch=CELLS[cell], sequence=SEQUENCE, launcher=launcher
    )
    (folder / "cell.py").write_text(text)
    _run([str(site.optimum_python), "cell.py"], site, folder)
    return readings.optimum_benchmark(json.loads((folder / "report.json").read_text()))


def _run(command: list[str], site: Site, folder: Path, *, endings: tuple[int, ...] = (0,)) -> str:
    """A command's last words. Raises NoLatency with them where it ends with another code than
    ``endings``, or does not end."""
    environment = {
        **os.environ,
        # The thread options of optimum-benchmark's torch backend are exchanged (intra-op sets
        # inter-op); what all of them read is the environment.
        **dict.fromkeys(THREAD_VARIABLES, str(site.threads)),
        "ASSAY_HOME": str(site.home),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise NoLatency(f"it did not end within {PATIENCE_S} s") from error
    lines = f"{result.stdout}\n{result.stderr}".split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no words").strip()[:300]
    if result.returncode not in endings:
        raise NoLatency(f"exit code {result.returncode}: {last}")
    return last
