"""The command line: ``assay run | gate | compare | list | build | report | doctor``.

Each command is a thin reading of its arguments. Errors are one line without a traceback, unless
``--debug`` asks for it; the exit code says what kind of error it was.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from compile.errors import InputError, Unsupported
from reports.errors import ReportError

EXIT_OK = 0
EXIT_BAD_INPUT = 2
EXIT_CELL_FAILED = 4
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.command(options)
    except (InputError, ReportError, Unsupported) as error:
        if options.debug:
            traceback.print_exc()
        print(f"assay: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        goes_on = "; --resume goes on from the finished cells" if hasattr(options, "resume") else ""
        print(f"assay: interrupted{goes_on}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `assay list | head`
        sys.stderr.close()
        return EXIT_OK
    except Exception as error:  # noqa: BLE001 - exit code 1 would read as "regressed"
        if options.debug:
            traceback.print_exc()
        print(f"assay: {type(error).__name__}: {error} (--debug shows more)", file=sys.stderr)
        return EXIT_CELL_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="assay", description="Which build of this model should we ship?"
    )
    parser.add_argument("--version", action="version", version=f"assay {version('assay')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, help: str, command: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(command=command)
        return sub

    run = add("run", "Run a suite: build, check, measure and report its cells.", _run)
    run.add_argument("suite", help="a shipped suite's name or a TOML file")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    run.add_argument("--only", metavar="GLOB", help="only cells whose label or axis matches")
    again = run.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    again.add_argument(
        "--fresh", action="store_true", help="replace a run of the same suite that is in DIR"
    )

    gate = add("gate", "Hold a suite's builds to a baseline, measured in pairs.", _gate)
    gate.add_argument("suite", help="a shipped suite's name or a TOML file")
    gate.add_argument("--baseline", type=Path, metavar="DIR", help="a kept baseline")
    gate.add_argument("--keep", type=Path, metavar="DIR", help="make a baseline instead of gating")
    gate.add_argument("--candidate-recipe", metavar="R", help="with --baseline-recipe: one recipe")
    gate.add_argument("--baseline-recipe", metavar="S", help="... against another")
    gate.add_argument("--only", metavar="GLOB", help="part of the suite; never passes as a whole")
    gate.add_argument(
        "--slow-down",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="make the candidates slower by 0.05, say, to see whether the gate notices",
    )
    gate.add_argument(
        "--out",
        type=Path,
        default=Path("assay-results/gate"),
        metavar="DIR",
        help="where gate.json, junit.xml, summary.md and the builder's log go (default: "
        "%(default)s)",
    )

    comparing = add(
        "compare",
        "Compare two stored runs: sizes and accuracy; latencies and memory side by side.",
        _compare,
    )
    comparing.add_argument("before", type=Path, metavar="A", help="folder of the first run")
    comparing.add_argument("after", type=Path, metavar="B", help="folder of the second run")
    comparing.add_argument(
        "--out", type=Path, metavar="DIR", help="also write compare.md and compare.json there"
    )

    listing = add("list", "List what can be named in a suite.", _list)
    listing.add_argument(
        "what",
        nargs="?",
        choices=("suites", "models", "recipes", "passes", "runtimes", "tasks", "columns", "cells"),
        default="suites",
    )
    listing.add_argument("suite", nargs="?", help="for cells: the suite to expand")

    build = add("build", "Make one artifact and put it into a folder.", _build)
    build.add_argument("model", help="a zoo name, a folder, file.py:factory, or an ONNX file")
    build.add_argument("--recipe", default="fp32", metavar="R", help="name or TOML file")
    build.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--task", metavar="TASK", help="the task whose data passes may use")
    build.add_argument("--kind", choices=("onnx", "torch"), help="default: what the recipe makes")

    build.add_argument("--classes", type=int, help="classes of a zoo classifier without a task")

    report = add("report", "Rebuild the tables and the report of a run.", _report)
    report.add_argument("folder", type=Path, metavar="DIR")

    doctor = add("doctor", "Say what this machine can run, and why not the rest.", _doctor)
    doctor.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    from suites.run import run

    statuses = run(
        options.suite, options.out, only=options.only, resume=options.resume, fresh=options.fresh
    )
    failed = {"incorrect", "out-of-memory", "timeout", "error"}
    if failed & set(statuses):
        return EXIT_CELL_FAILED
    # What this machine lacks fails no run, unless nothing is left that a release could stand on.
    return EXIT_OK if "ok" in statuses else EXIT_CELL_FAILED


def _gate(options: argparse.Namespace) -> int:
    from reports.gate import BUILDER_LOG, GateReport
    from suites.gate.keeping import keep_baseline
    from suites.gate.run import Recipes, gate

    recipes = (options.candidate_recipe, options.baseline_recipe)
    chosen = [options.baseline is not None, options.keep is not None, any(recipes)]
    if sum(chosen) != 1 or (any(recipes) and not all(recipes)):
        raise InputError(
            "assay gate wants one of: --baseline DIR, --keep DIR, or --candidate-recipe R with "
            "--baseline-recipe S"
        )
    if options.keep is not None:
        if options.only:
            raise InputError("--keep takes the whole suite: a baseline of a part would pass a part")
        if options.slow_down:
            raise InputError("--slow-down is for gating: a baseline is kept as it is")
        kept = keep_baseline(options.suite, options.keep)
        print(f"kept {kept} cells in {options.keep}")
        return EXIT_OK
    against = options.baseline if options.baseline is not None else Recipes(*recipes)
    GateReport.clear(options.out)
    report = gate(
        options.suite,
        against,
        only=options.only,
        slow_down=options.slow_down,
        builder_log=options.out / BUILDER_LOG,
    )
    report.write(options.out)
    print("\n".join(report.lines()))
    return report.exit_code


def _compare(options: argparse.Namespace) -> int:
    from reports.comparison import telling
    from reports.tables import screen
    from suites.comparing import compare_runs

    comparison = compare_runs(options.before, options.after)
    if options.out is not None:
        telling.write(comparison, options.out)
    screen().print(telling.terminal(comparison))
    return comparison.exit_code


def _list(options: argparse.Namespace) -> int:
    from suites import listing

    if options.what == "cells" and not options.suite:
        raise InputError("assay list cells needs a suite: assay list cells SUITE")
    if options.what != "cells" and options.suite:
        raise InputError(f"assay list {options.what} takes no suite")
    listing.show(options.what, options.suite)
    return EXIT_OK


def _build(options: argparse.Namespace) -> int:
    from suites.builder import BuildFailed, build_into
    from suites.progress import Display

    try:
        with Display() as display:
            artifact = build_into(
                options.model,
                options.recipe,
                options.out,
                options.task,
                options.classes,
                options.kind,
                display.stage,
            )
    except BuildFailed as error:
        print(f"assay: {error.status}: {error}", file=sys.stderr)
        return EXIT_CELL_FAILED
    for entry in artifact.lineage:
        print(f"{entry.step:>10}  {entry.bytes:>12,} bytes  {entry.seconds:8.2f} s")
    print(options.out)
    return EXIT_OK


def _report(options: argparse.Namespace) -> int:
    import reports

    reports.write(options.folder)
    print(options.folder / "report.html")
    return EXIT_OK


def _doctor(options: argparse.Namespace) -> int:
    from suites import listing

    listing.show_doctor(options.json)
    return EXIT_OK
