"""Does the gate keep what it promises? Whole gates, counted.

    python -m scripts.promise run GATES.jsonl --gates 60
    python -m scripts.promise run GATES.jsonl --gates 10 --comparisons 5
    python -m scripts.promise run GATES.jsonl --gates 40 --slow-down 0.05
    python -m scripts.promise run GATES.jsonl --gates 6 --neighbours 1
    python -m scripts.promise show GATES.jsonl
    python -m scripts.promise simulate

Each gate holds the builds of a small encoder on ONNX Runtime to a kept baseline of the same builds,
as ``assay gate`` does, and is a line of the file. ``run`` goes on where the file ends: it may be
killed at any time. ``show`` counts outcomes, and replays the pairs that were recorded without a
slow-down under random signs: a pair and its mirror image are as likely as one another when both
sides are one build, so that thousands of gates can be had from the pairs of a few. With
``--neighbours`` processes work beside the gates (``scripts/neighbour.py``): how the cost grows with
noise. ``simulate`` says how many pairs a comparison needs, by how much they differ by chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from scripts.promise.counts import show
from scripts.promise.gates import SUITES, Kind, read, run
from scripts.promise.simulation import simulated


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Count what the gate promises.")
    commands = parser.add_subparsers(required=True, dest="command")
    make = commands.add_parser("run", help="append gates to the file")
    make.add_argument("file", type=Path)
    make.add_argument("--gates", type=int, required=True, help="of this kind, in the file")
    make.add_argument("--comparisons", type=int, choices=sorted(SUITES), default=1)
    make.add_argument("--slow-down", type=float, default=0.0)
    make.add_argument("--neighbours", type=int, default=0, help="that work beside the gates")
    count = commands.add_parser("show", help="count the file's gates, as Markdown")
    count.add_argument("file", type=Path)
    commands.add_parser("simulate", help="pairs needed, by noise, as Markdown")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.command == "run":
        kind = Kind(options.slow_down, options.comparisons, options.neighbours)
        run(options.file, options.gates, kind)
    elif options.command == "simulate":
        print(simulated())
    else:
        print(show(read(options.file)))


if __name__ == "__main__":
    main()
