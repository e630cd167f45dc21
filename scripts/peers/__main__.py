"""The same cells through Assay, a bare loop and other benchmarks, interleaved.

    tox run -e peers                                     # makes optimum-benchmark's environment
    python -m scripts.peers --optimum-benchmark FOLDER   # its environment, if there is one

The cells are a BERT of 4 layers of width 256 with random weights, on torch on the CPU in float32,
at 1 x 128 and 8 x 128 tokens, with the same threads for everybody. In each round every benchmark
measures every cell once, in random order, with its own defaults and in a process of its own, whose
wall time is counted. Two bare loops (``scripts/bare_loop.py``) in that benchmark's environment call
just before and just after; what it reports is divided by their medians, so that a machine that
drifts from turn to turn slows both. Each turn is printed when it ends, the table at the end or when
the run is interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from runtimes.doctor import cpu
from scripts.bare_loop import SEQUENCE, VOCABULARY, BareLoop
from scripts.peers.contenders import CELLS, Contender, Site, contenders
from scripts.peers.environment import interpreter
from scripts.peers.readings import NoLatency
from scripts.peers.table import Turn, table

LOOP_S = 0.5
"""How long each bare loop calls before and after a turn."""
OURS = ("assay", "torch", "transformers", "pytest-benchmark")
THEIRS = ("optimum-benchmark", "torch", "transformers")


def save_bert(folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
    )
    transformers.BertModel(config).save_pretrained(folder)


class Yardstick:
    """Two bare loops of one cell in one environment, the allocator as it came and settled."""

    def __init__(self, site: Site, python: str, cell: str) -> None:
        self._loops: list[BareLoop] = []
        for settled in (False, True):
            loop = BareLoop(
                *(site.model, "transformers", CELLS[cell], site.threads),
                settled=settled,
                python=python,
            )
            self._loops.append(loop)
        self._calls = max(5, int(LOOP_S * 1e3 / self._loops[0].turn(5)))

    def medians(self) -> list[float]:
        """Milliseconds: as it came, settled."""
        return [loop.turn(self._calls) for loop in self._loops]

    def end(self) -> None:
        for loop in self._loops:
            loop.end()


def take(contender: Contender, cell: str, yardstick: Yardstick | None) -> Turn:
    """One turn; what keeps a benchmark from reporting is in it and stops nobody else."""
    before = _medians(yardstick)
    reported, reason = None, None
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            reported = contender.measure(cell, Path(folder))
        except NoLatency as error:
            reason = _one_line(str(error))
        except Exception as error:  # noqa: BLE001 - no report, or one that nobody foresaw
            reason = _one_line(f"{type(error).__name__}: {error}")
        wall = time.perf_counter() - start
    after = None if before is None else _medians(yardstick)
    if before is None or after is None:
        return Turn(contender.name, label(cell), wall, reported, reason=reason)
    bare, settled = ((a + b) / 2 for a, b in zip(before, after, strict=True))
    return Turn(contender.name, label(cell), wall, reported, bare, settled, reason)


def _medians(yardstick: Yardstick | None) -> list[float] | None:
    """None where there are no bare loops, or one of them has died: a turn without a ratio."""
    try:
        return yardstick.medians() if yardstick else None
    except (RuntimeError, OSError) as error:
        print(f"no bare loop: {error}", file=sys.stderr, flush=True)
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def label(cell: str) -> str:
    return f"{CELLS[cell]} x {SEQUENCE}"


def heading(site: Site, rounds: int) -> str:
    processor = cpu()
    ours = _listed(OURS, map(importlib.metadata.version, OURS))
    return (
        f"{time.strftime('%Y-%m-%d')}, {processor['model']}, {site.threads} threads, "
        f"{rounds} rounds.\n\n- Assay, the bare loop and pytest-benchmark: {ours}\n"
        f"- optimum-benchmark: {_their_versions(site.optimum_python)}\n"
    )


def _their_versions(python: Path) -> str:
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    try:
        told = subprocess.run(
            [str(python), "-c", code, *THEIRS], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return f"no environment at {python}"
    return _listed(THEIRS, told.stdout.split())


def _listed(names: Iterable[str], versions: Iterable[str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in zip(names, versions, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--optimum-benchmark",
        type=Path,
        default=Path(".tox/peers/optimum-benchmark"),
        metavar="FOLDER",
        help="the environment that scripts.peers.environment made",
    )
    arguments = parser.parse_args()
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        site = Site(
            model=Path(work) / "bert",
            threads=len(os.sched_getaffinity(0)),
            home=Path(work) / "home",
            optimum_python=interpreter(arguments.optimum_benchmark).absolute(),
        )
        save_bert(site.model)
        print(heading(site, arguments.rounds), flush=True)
        entrants = contenders(site)
        yardsticks: dict[tuple[str, str], Yardstick] = {}
        for python in dict.fromkeys(entrant.python for entrant in entrants):
            for cell in CELLS if Path(python).is_file() else ():
                try:
                    yardsticks[python, cell] = Yardstick(site, python, cell)
                except (RuntimeError, OSError) as error:
                    print(f"no bare loop under {python}: {error}", file=sys.stderr, flush=True)
                else:
                    stack.callback(yardsticks[python, cell].end)
        try:
            for _ in range(arguments.rounds):
                pairs = [(entrant, cell) for entrant in entrants for cell in CELLS]
                random.shuffle(pairs)
                for entrant, cell in pairs:
                    turns.append(take(entrant, cell, yardsticks.get((entrant.python, cell))))
                    print(json.dumps(asdict(turns[-1])), file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
        finally:
            print(table(turns, map(label, CELLS), [entrant.name for entrant in entrants]))


if __name__ == "__main__":
    main()
