"""Builds of two runs by their answers to the same examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd

from reports import units
from reports.comparison.judgement import BUILD, Judgement, Pair, Row, Verdict, axes, build_label
from reports.comparison.judgement import builds as builds_of
from reports.results import Results

CONFIDENCE = 0.95
"""With which all intervals of a comparison hold together."""


class PairedDrop(Protocol):
    """How much worse one build is than another on the same examples."""

    @property
    def drop(self) -> float:
        """Positive is worse."""

    @property
    def low(self) -> float:
        """Lower end of the two-sided interval at the confidence asked."""

    @property
    def high(self) -> float: ...

    @property
    def examples(self) -> int: ...

    @property
    def lost(self) -> int:
        """Examples on which it is worse."""

    @property
    def gained(self) -> int: ...


DropFormula = Callable[[str, Mapping[str, np.ndarray], Mapping[str, np.ndarray], float], PairedDrop]
"""``(metric, before, after, confidence)``: by the metric's name the drop from one build's
per-example results to another's, columns of ``examples.parquet``, each ``(examples,)``."""


def accuracy(
    before: Results, after: Results, pairs: Iterable[Pair], drop: DropFormula
) -> list[Judgement]:
    """Each build that has examples in either run. A build is worse where the interval of its drop
    lies above zero.

    The intervals hold together: each has the confidence ``1 - (1 - CONFIDENCE) / builds``
    (Bonferroni's inequality), so that a comparison of many builds does not cry wolf.
    """
    tables = [_by_build(results) for results in (before, after)]
    judgements: list[Judgement] = []
    comparable = []
    for old, new in builds_of(pairs):
        mine, theirs = (table.get(axes(old, BUILD)) for table in tables)
        if mine is None and theirs is None:
            continue
        if (lacking := _lacking(before, after, (old, new), mine, theirs)) is None:
            comparable.append((old, new, mine, theirs))
        elif {old["status"], new["status"]} <= {"ok", "not-stationary"}:
            # Of a build that did not run, its status is judged.
            shown = _metric(old), _metric(new)
            judgements.append(
                Judgement(build_label(old), "accuracy", "not comparable", *shown, lacking)
            )
    for old, new, mine, theirs in comparable:
        confidence = 1 - (1 - CONFIDENCE) / len(comparable)
        paired = drop(new["metric"], _arrays(mine), _arrays(theirs), confidence)
        judgements.append(_judged(old, new, paired, confidence))
    return judgements


def _judged(old: Row, new: Row, paired: PairedDrop, confidence: float) -> Judgement:
    verdict: Verdict = "worse" if paired.low > 0 else "better" if paired.high < 0 else "same"
    change = {
        "metric": new["metric"],
        "accuracy_drop": paired.drop,
        "accuracy_drop_low": paired.low,
        "accuracy_drop_high": paired.high,
    }
    counts = {"lost": paired.lost, "gained": paired.gained, "examples": paired.examples}
    seen = (
        f"{units.drop_name(change)} {units.accuracy_drop(change)}; of {paired.examples} examples "
        f"{paired.lost} worse, {paired.gained} better"
    )
    facts = {**change, "confidence": confidence, **counts}
    return Judgement(build_label(old), "accuracy", verdict, _metric(old), _metric(new), seen, facts)


def _lacking(
    before: Results,
    after: Results,
    pair: Pair,
    mine: pd.DataFrame | None,
    theirs: pd.DataFrame | None,
) -> str | None:
    """Why two builds cannot be paired by example, or None."""
    if mine is None or theirs is None:
        return f"the {'first' if mine is None else 'second'} run has no examples of this build"
    old, new = pair
    for column in ("task", "metric"):
        if old.get(column) != new.get(column) or new.get(column) is None:
            return f"the {column} was {old.get(column)} and is {new.get(column)}"
    prints = [_fingerprints(results.run, old["model"]) for results in (before, after)]
    if all(prints) and len(prints[0] | prints[1]) > 1:
        return "the task's data changed: its fingerprints differ"
    if len(mine) != len(theirs):
        return f"{len(mine)} examples then, {len(theirs)} now"
    for column in ("example", "label", "tokens", "bytes"):
        if not mine[column].equals(theirs[column]):
            return f"not the same examples: column {column!r} of examples.parquet differs"
    return None


def _fingerprints(run: Mapping[str, Any], model: str) -> set[str]:
    """Of the model's data in each session of a run; empty where an older run does not tell."""
    sessions = [run, *(run.get("resumed") or ())]
    return {data[model] for each in sessions if model in (data := each.get("data") or {})}


def _by_build(results: Results) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Each build's examples, in the order of the test split."""
    groups = results.examples.groupby(list(BUILD), sort=False, dropna=False)
    return {build: g.sort_values("example").reset_index(drop=True) for build, g in groups}


def _arrays(examples: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns that hold numbers, each (examples,) float64."""
    numbers = examples.select_dtypes("number").dropna(axis="columns", how="all")
    return {str(name): numbers[name].to_numpy(np.float64, na_value=math.nan) for name in numbers}


def _metric(row: Row) -> str:
    value = row.get("metric_value")
    if value is None or row.get("metric") != "accuracy":
        return units.number(value)
    return f"{units.points(value)} %"
