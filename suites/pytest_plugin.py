"""``pytest --assay SUITE``: each cell of a suite is a test, and a benchmark of pytest-benchmark.

The suite is run once, when the first of its cells is due, by the runner of ``assay run`` and with
all chosen cells taking turns; each test then tells its own row. pytest-benchmark records and
reports: it is given the samples through a virtual clock, and measures and judges nothing.
``assay.py`` is the entry point, so that a pytest without ``--assay`` imports none of the rooms.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import reports
from compile.errors import InputError, Unsupported
from reports import units
from reports.errors import ReportError
from suites.cell import Cell
from suites.expanded import Expanded, expand_here
from suites.reading import read_suite
from suites.replay import VirtualClock, replay
from suites.run import run_cells

Row = Mapping[str, Any]

RECORDED = (
    *("status", "insufficient", "samples", "effective_samples", "disturbed_samples"),
    *("latency_p50_ms", "latency_p50_low_ms", "latency_p50_high_ms"),
    *("latency_p99_ms", "latency_p99_low_ms", "latency_p99_high_ms"),
    *("speedup", "speedup_low", "speedup_high", "throughput_samples_per_s"),
    *("processes", "processes_spread"),
    *("load", "concurrency", "requested_requests_per_s", "offered_requests_per_s"),
    *("achieved_requests_per_s", "achieved_over_offered", "requests_given_up"),
    *("e2el_p50_ms", "e2el_p50_low_ms", "e2el_p50_high_ms"),
    *("e2el_p90_ms", "e2el_p90_low_ms", "e2el_p90_high_ms"),
    *("e2el_p99_ms", "e2el_p99_low_ms", "e2el_p99_high_ms"),
    *("request_throughput_per_s", "request_goodput_per_s", "slo", "slo_met_share"),
    *("capacity_requests_per_s", "capacity_missed_requests_per_s"),
    *("metric", "metric_value", "accuracy", "accuracy_drop", "accuracy_drop_low"),
    *("accuracy_drop_high", "accuracy_drop_bound", "top1_agreement"),
    *("artifact_bytes", "artifact_ratio", "memory_peak_bytes", "memory_waste_bytes"),
    *("fallback", "artifact_key", "cell_id"),
)
"""Columns of the row that a benchmark carries as its ``extra_info``."""


class SuiteTests:
    """The hooks of a session that runs a suite."""

    def __init__(self, config: pytest.Config) -> None:
        """Raises UsageError for a suite that cannot be read, and for tests in parallel."""
        _refuse_parallel(config)
        self._reference: str = config.getoption("assay")
        self._only: str | None = config.getoption("assay_only")
        with _usage_errors():
            _, path, _ = read_suite(self._reference)
        self._path = path.resolve()
        start = config.invocation_params.dir
        asked = config.getoption("assay_out")
        self.out = start / (asked or Path("assay-results", "pytest", path.stem))
        inside = self._path.is_relative_to(config.rootpath)
        self._nodeid = (
            self._path.relative_to(config.rootpath).as_posix() if inside else self._path.name
        )
        self._chosen = self._take_arguments(config)
        self._rows: dict[str, Row] | None = None
        self._console = Console(stderr=True)
        self._expanded: Expanded | None = None

    def _take_arguments(self, config: pytest.Config) -> set[str]:
        """Node ids of the suite's cells among the arguments: these are no files for pytest to find.
        Without any path on the command line the suite is all that is run."""
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = []
            return set()
        labels, rest = set(), []
        for argument in config.args:
            file, _, label = argument.partition("::")
            place = (config.invocation_params.dir / file).resolve()
            if file == self._nodeid or place == self._path:
                labels.add(label)
            else:
                rest.append(argument)
        config.args = rest
        # Without a label the whole suite is named.
        return set() if "" in labels else labels

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        with _usage_errors(), _uncaptured(session.config):
            self._expanded = expand_here(self._reference, self._console)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        """Add the cells before other plugins choose among the items or mark them."""
        assert self._expanded is not None, "the suite is expanded before anything is collected"
        suite = self._expanded.suite
        with _usage_errors():
            cells = suite.only(self._only) if self._only else suite.cells
            if unknown := sorted(self._chosen - {node_name(cell) for cell in cells}):
                raise InputError(
                    f"{self._nodeid} has no cell {unknown[0]!r}; pytest --assay {self._reference} "
                    "--collect-only -q lists them"
                )
        cells = tuple(c for c in cells if not self._chosen or node_name(c) in self._chosen)
        collector = SuiteCells.from_parent(session, path=self._path, nodeid=self._nodeid)
        collector.cells = cells
        items.extend(session.genitems(collector))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Not in the item's own set-up, where a mistake in the suite would be that test's error."""
        if not isinstance(item, CellItem) or _is_skipped(item):
            return
        if self._rows is None:
            self._rows = self._measured(item.session)
        assert self._expanded is not None
        item.learn(self._rows.get(item.cell.id), self.out, self._expanded.suite.file.ship.max_drop)

    def _measured(self, session: pytest.Session) -> dict[str, Row]:
        """Run all cells that are left of the suite, and read their rows by cell id."""
        assert self._expanded is not None
        cells = [i.cell for i in session.items if isinstance(i, CellItem) and not _is_skipped(i)]
        expected = self._expanded.suite.cells
        part = None if len(cells) == len(expected) else f"{len(cells)} cells chosen in pytest"
        with _usage_errors(), _uncaptured(session.config):
            run_cells(
                self._expanded,
                cells,
                self.out,
                command=("pytest", *session.config.invocation_params.args),
                only=self._only or part,
                fresh=True,
                show=False,
                console=self._console,
            )
            return {row["cell_id"]: row for row in reports.load(self.out).rows}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._rows is not None:
            terminalreporter.write_line(f"assay: {self.out / 'report.html'}")


class SuiteCells(pytest.Module):
    """The suite among the collected nodes. A module to fixtures, of which some live as long as
    one; it holds no Python."""

    cells: Sequence[Cell] = ()

    def collect(self) -> Iterator[pytest.Item]:
        self.obj = types.ModuleType(self.path.stem)
        has_benchmark = self.config.pluginmanager.hasplugin("pytest-benchmark")
        test = recorded_and_judged if has_benchmark else judged
        for cell in self.cells:
            yield CellItem.from_parent(self, name=node_name(cell), callobj=test, cell=cell)


class CellItem(pytest.Function):
    """One cell as a test. It knows its row from the moment when the suite has been run."""

    def __init__(self, *, cell: Cell, **given: Any) -> None:
        super().__init__(**given)
        self.cell = cell
        self.clock = VirtualClock()
        self.row: Row | None = None
        self._out = Path()
        self._max_drop = 0.0
        self.add_marker(
            pytest.mark.benchmark(
                timer=self.clock.seconds,
                group=f"{cell.model} {cell.workload} {cell.device}",
                # The profile would be that of the virtual clock.
                cprofile=False,
            )
        )

    def learn(self, row: Row | None, out: Path, max_drop: float) -> None:
        self.row, self._out, self._max_drop = row, out, max_drop
        if row is not None and row["status"] == "unsupported":
            self.add_marker(pytest.mark.skip(reason=row["reason"]))

    @property
    def failure(self) -> str | None:
        """Status and reason of a cell that was not measured; None for one that was."""
        if self.row is None:
            return "no row: the run ended before this cell"
        if self.row["status"] == "ok":
            return None
        return f"{self.row['status']}: {self.row['reason']}"

    def setup(self) -> None:
        # Without a latency there is nothing to record, and pytest-benchmark warns of a benchmark
        # that was not used.
        if self.failure is None:
            super().setup()

    def runtest(self) -> None:
        if self.failure is not None:
            self.fail(self.failure)
        super().runtest()

    def record(self, benchmark: Any) -> None:
        """Give pytest-benchmark the cell's samples and what else its row says."""
        assert self.row is not None
        samples = reports.load(self._out).samples_of(self.cell.id)
        kept = samples.loc[samples["phase"] == "sample", "latency_ns"]
        benchmark.extra_info.update({name: self.row.get(name) for name in RECORDED})
        benchmark.param, benchmark.params = self.name, asdict(self.cell)
        replay(benchmark, self.clock, kept.tolist())

    def judge(self) -> None:
        """Hold the row to ``[ship] max_drop``. A drop that the examples neither show nor rule out
        is a warning: the test cannot know."""
        assert self.row is not None
        low, bound = self.row.get("accuracy_drop_low"), self.row.get("accuracy_drop_bound")
        allowed = f"ship.max_drop allows {units.loss(self.row, self._max_drop)}"
        seen = f"{units.drop_name(self.row)} {units.accuracy_drop(self.row)}"
        if low is not None and low > self._max_drop:
            self.fail(f"{seen}, where {allowed}")
        elif bound is not None and bound >= self._max_drop and bound > 0:
            self.warn(
                pytest.PytestWarning(
                    f"{seen}: its examples cannot rule out {units.loss(self.row, bound)}, where "
                    f"{allowed}"
                )
            )

    def fail(self, reason: str) -> None:
        pytest.fail(f"{reason}\n  cell    {self.name}\n  report  {self._out}", pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


def recorded_and_judged(request: pytest.FixtureRequest, benchmark: Any) -> None:
    """The test of a cell where pytest-benchmark is installed."""
    request.node.record(benchmark)
    request.node.judge()


def judged(request: pytest.FixtureRequest) -> None:
    """The test of a cell without it."""
    request.node.judge()


def node_name(cell: Cell) -> str:
    """The cell's label, on one line whatever its names hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cell.label)


def _is_skipped(item: pytest.Item) -> bool:
    """Whether somebody (``--benchmark-skip``, a conftest) has decided against this cell."""
    return item.get_closest_marker("skip") is not None


def _refuse_parallel(config: pytest.Config) -> None:
    parallel = config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no"
    if parallel or hasattr(config, "workerinput"):
        raise pytest.UsageError(
            "--assay measures, and tests that run beside it would be in the measurement: leave "
            "out -n and --dist, or put -p no:xdist"
        )


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """What the user can mend in one line, without a traceback."""
    try:
        yield
    except (InputError, ReportError, Unsupported) as error:
        raise pytest.UsageError(f"assay: {error}") from error


@contextlib.contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[None]:
    """Let the progress of a run through to the terminal."""
    capture = config.pluginmanager.getplugin("capturemanager")
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        yield
