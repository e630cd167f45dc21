"""``assay gate --keep``: a release's builds, put aside to hold later ones to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from compile.artifact import Artifact
from compile.errors import InputError
from suites import rows
from suites.bench import Bench
from suites.blocks import by_session
from suites.cell import Cell
from suites.gate.contest import Contest, Side, until_decided
from suites.gate.kept import keep, require_replaceable
from suites.gate.pair import PairPlan
from suites.gate.site import open_site
from suites.gate.verdict import PairedVerdict

PILOT_PAIRS = 4
"""Of a baseline with itself: they say how much pairs differ by chance."""


def keep_baseline(reference: str, folder: Path, *, console: Console | None = None) -> int:
    """Build the suite and keep its artifacts as a baseline in ``folder``. Returns how many.

    Each session is held to its reference and measured against itself a few times. Raises
    InputError where a cell fails: a baseline with holes would let a later gate pass them.
    """
    with open_site(reference, None, console) as site:
        if folder.exists():
            require_replaceable(folder, site.suite.name)
        site.suite.file.gate.check([c.label for c in site.cells], str(site.suite.path))
        cells: dict[str, dict[str, Any]] = {}
        artifacts: dict[str, Artifact] = {}
        data: dict[str, str | None] = {}
        for name, subject in site.subjects.items():
            mine = [cell for cell in site.cells if cell.model == name]
            data[name] = subject.task.fingerprint if subject.task else None
            with site.bench(subject, mine) as bench:
                contests = _against_themselves(bench, mine)
                bench.builds.close()
                until_decided(contests, random.Random(), PairPlan(), site.display)
            for contest in contests:
                if contest.failure is not None:
                    raise InputError(
                        f"{contest.key.label} cannot be kept: "
                        f"{rows.failure(contest.failure)['reason']}"
                    )
                artifact = contest.candidate.artifact
                artifacts[artifact.key] = artifact
                for workload, cell in contest.cells.items():
                    seen = contest.verdicts[workload].differences
                    cells[cell.id] = {
                        "label": cell.label,
                        "artifact": artifact.key,
                        # Both sides were one artifact: the mean is known, and is zero.
                        "spread": float(np.sqrt(np.mean(np.square(seen)))) if seen else None,
                    }
        keep(
            folder,
            site.suite.name,
            cells,
            data,
            artifacts,
            {"environment": site.environment, "suite_text": site.suite.text},
        )
        return len(cells)


def _against_themselves(bench: Bench, cells: Sequence[Cell]) -> list[Contest]:
    """Contests in which both sides are the same artifact, of a few pairs each."""
    base = bench.builds.base()
    bench.check_workloads(base)
    grouped = by_session(cells)
    recipes = {key.recipe: bench.recipe(key.recipe) for key in grouped}

    def refuse(recipe: str, error: Exception) -> None:
        raise InputError(f"recipe {recipe!r} cannot be kept: {error}") from error

    truths = bench.truths(base, recipes, refuse)
    contests = []
    for key, mine in grouped.items():
        try:
            artifact = bench.builds.get(recipes[key.recipe], bench.builds.kind(key.runtime))
        except rows.FAILURES as error:
            raise InputError(f"{key.label} cannot be kept: {error}") from error
        side = Side.of(bench, key, artifact, truths[key.recipe])
        verdicts = {
            cell.workload: PairedVerdict(0.0, 1.0, 1e-9, 1e-9, 1, PILOT_PAIRS) for cell in mine
        }
        contests.append(Contest(key, {c.workload: c for c in mine}, side, side, verdicts))
    return contests
