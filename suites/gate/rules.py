"""``[gate]`` of a suite file: what a candidate may lose, cell by cell.

[gate]
alpha = 0.01

[[gate.rules]]
metric = "latency"
cells = "*/int8-*/*"
margin = 0.03

The first rule of a metric whose glob matches a cell's label is that cell's; a metric without any
rule is not gated. Without ``[[gate.rules]]`` the defaults below hold for all cells.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compile.errors import InputError

Share = Annotated[float, Field(ge=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Rule(_Table):
    cells: Annotated[str, Field(min_length=1)] = "*"
    """A glob over cell labels, ``model/recipe/runtime/attention/workload/device``."""


class LatencyRule(_Rule):
    """How much slower a candidate may be. Between ``ignore`` and ``margin`` it may pass or not, and
    is called slower with the gate's ``alpha`` at most for as long as it is within ``ignore``."""

    metric: Literal["latency"] = "latency"
    ignore: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """A slow-down up to this one is no regression."""
    margin: Annotated[float, Field(gt=0, le=10)] = 0.05
    """A pass says that the candidate is not slower by more than this."""

    @model_validator(mode="after")
    def _ordered(self) -> LatencyRule:
        if self.margin <= self.ignore:
            raise ValueError(f"margin = {self.margin:g} has to be above ignore = {self.ignore:g}")
        return self


class AccuracyRule(_Rule):
    """Non-inferiority: the one-sided bound of the paired drop has to lie below ``max_drop``."""

    metric: Literal["accuracy"] = "accuracy"
    max_drop: Annotated[float, Field(gt=0, le=1)] = 0.01
    """As a fraction: 0.01 is a point."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95


class GrowthRule(_Rule):
    """A plain threshold, which has no part in ``alpha``: bytes on disk are exact, and bytes in
    memory differ somewhat from process to process (counted in docs/evidence/gate.md)."""

    metric: Literal["size", "memory_peak", "memory_waste"]
    max_growth: Annotated[float, Field(ge=0)]
    """Relative to the baseline: 0.05 allows 5 % more."""


Rule = Annotated[LatencyRule | AccuracyRule | GrowthRule, Field(discriminator="metric")]
METRICS = ("latency", "accuracy", "size", "memory_peak", "memory_waste")


class GateTable(_Table):
    """The whole table."""

    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Probability that the gate, over all its latency rules, calls anything slower that is not."""
    beta: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Probability, for each latency rule, of passing what is slower by more than its margin."""
    max_pairs: Annotated[int, Field(ge=4, le=10_000)] = 60
    """Pairs of processes after which a comparison is given up as inconclusive."""
    rules: Annotated[list[Rule], Field(min_length=1)] = [
        LatencyRule(),
        AccuracyRule(),
        GrowthRule(metric="size", max_growth=0.02),
        GrowthRule(metric="memory_peak", max_growth=0.10),
    ]

    def of(self, label: str, metric: str) -> LatencyRule | AccuracyRule | GrowthRule | None:
        """The rule of a metric for a cell; None where the metric is not gated."""
        return next(
            (r for r in self.rules if r.metric == metric and fnmatch.fnmatchcase(label, r.cells)),
            None,
        )

    def check(self, labels: Iterable[str], where: str) -> None:
        """Raise InputError for a rule that is no cell's: it would never fail."""
        known = list(labels)
        for number, rule in enumerate(self.rules):
            if not any(self.of(label, rule.metric) is rule for label in known):
                raise InputError(
                    f"{where}: gate.rules.{number}: cells = {rule.cells!r} leaves the "
                    f"{rule.metric} rule without a cell; a cell reads like {known[0]}"
                )
