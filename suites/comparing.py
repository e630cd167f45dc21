"""``assay compare``: the formulas of the tasks for the comparison of two stored runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import reports
from reports.compare import Comparison, compare
from suites.measure.paired import PairedDrop
from suites.tasks.classification import Classification
from suites.tasks.language import CausalLM, MaskedLM
from suites.tasks.task import Task


def compare_runs(before: Path, after: Path) -> Comparison:
    """Compare the runs in two folders. Raises ReportError for a folder without a finished run,
    and for two runs without a cell in common."""
    return compare(reports.load(before), reports.load(after), stored_drop)


def stored_drop(
    metric: str,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    confidence: float,
) -> PairedDrop:
    """The drop of a task's metric from one build's stored examples to another's."""
    kind: type[Task] = CausalLM
    if metric != CausalLM.metric:
        # Both others have an accuracy; only a language model's examples are counted in tokens.
        kind = MaskedLM if "tokens" in after else Classification
    return kind.drop(dict(before), dict(after), confidence)
