"""What to ship and why, for each model, workload and device of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports import units
from reports.columns import CONTRACT

Row = Mapping[str, Any]

ALLOWED_DROP = 0.01
REFERENCE_RECIPE = "fp32"
_RANKING_CONTRACT = tuple(name for name in CONTRACT if name != "contract_io_binding")
"""How arrays are bound is part of a runtime's speed; what the clock covers is not."""


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as another row: the ratio of the medians.

    ``low`` and ``high`` divide the opposite ends of the two intervals, which is wider than a 95 %
    interval of the ratio.
    """

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.2f}x" + units.interval(self.low, self.high, 1, 2)


@dataclass(frozen=True)
class Decision:
    """The answer for one model, workload and device."""

    model: str
    workload: str
    device: str
    ship: Row | None
    """The row to ship; None where no build qualifies."""
    sentence: str
    """The answer in plain English, with its numbers."""
    baseline: Row | None = None
    """The fastest build of the reference recipe that is ranked with the rest."""
    speedup: Speedup | None = None
    """Of ``ship`` over ``baseline``."""
    tied: tuple[Row, ...] = ()
    """Qualified rows whose latency cannot be told from the fastest one's; ``ship`` among them."""
    smallest: Row | None = None
    most_accurate: Row | None = None
    refused: tuple[tuple[Row, str], ...] = ()
    """Measured rows that do not qualify, and why."""
    unranked: tuple[tuple[Row, str], ...] = ()
    """Measured rows whose clock covers something else than the others', and what."""
    caveats: tuple[str, ...] = field(default=())
    """What a reader must know before believing the sentence."""


def decide(
    rows: Iterable[Row],
    allowed_drop: float = ALLOWED_DROP,
    reference_recipe: str = REFERENCE_RECIPE,
) -> list[Decision]:
    """One decision for each (model, workload, device), in order of first appearance.

    Among the rows that are ``ok`` and whose contracts are alike, the fastest qualifies whose
    one-sided 95 % bound of the accuracy drop is below ``allowed_drop``. A row without accuracy
    is judged by its agreement with the reference, and the decision says so. Of rows that cannot
    be told apart by speed the smallest artifact wins, then the one of fewer steps.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        key = (row["model"], row["workload"], row["device"])
        groups.setdefault(key, []).append(row)
    return [
        _decide_group(key, group, allowed_drop, reference_recipe) for key, group in groups.items()
    ]


def max_drop(run: Mapping[str, Any]) -> float:
    """The accuracy drop that a run's suite allows: ``max_drop`` in ``run.json``, or one point."""
    allowed = run.get("max_drop")
    return ALLOWED_DROP if allowed is None else float(allowed)


def within(bound: float, allowed_drop: float) -> bool:
    """Whether an upper bound of the drop lies below what is allowed; no drop at all always does."""
    return bound < allowed_drop or bound <= 0


def _decide_group(
    key: tuple[str, str, str], group: list[Row], allowed_drop: float, reference_recipe: str
) -> Decision:
    measured = [r for r in group if r["status"] == "ok" and r.get("latency_p50_ms") is not None]
    if not measured:
        return Decision(*key, ship=None, sentence=_nothing_measured(key, group))
    ranked, unranked = _alike(measured, reference_recipe)
    qualified, refused = [], []
    for row in ranked:
        if objection := _objection(row, allowed_drop):
            refused.append((row, objection))
        else:
            qualified.append(row)
    baseline = min((r for r in ranked if r["recipe"] == reference_recipe), key=_p50, default=None)
    if not qualified:
        sentence = (
            f"Nothing to ship for {_place(key)}: {_count(len(ranked), 'build')} measured, none "
            f"within the allowed accuracy drop of {units.points(allowed_drop)} points."
        )
        return Decision(
            *key,
            ship=None,
            sentence=sentence,
            baseline=baseline,
            most_accurate=_most_accurate(ranked),
            refused=tuple(refused),
            unranked=tuple(unranked),
        )
    fastest = min(qualified, key=_p50)
    tied = [row for row in qualified if _overlap(row, fastest)]
    ship = min(tied, key=lambda row: (_size(row), _steps(row), _p50(row)))
    speedup = None if baseline is None else _speedup(ship, baseline)
    return Decision(
        *key,
        ship=ship,
        sentence=_sentence(ship, baseline, speedup, allowed_drop),
        baseline=baseline,
        speedup=speedup,
        tied=tuple(sorted(tied, key=_p50)) if len(tied) > 1 else (),
        smallest=min(qualified, key=lambda row: (_size(row), _p50(row))),
        most_accurate=_most_accurate(qualified),
        refused=tuple(refused),
        unranked=tuple(unranked),
        caveats=tuple(_caveats(ship, tied, ranked, [*refused, *unranked])),
    )


def _alike(measured: list[Row], reference_recipe: str) -> tuple[list[Row], list[tuple[Row, str]]]:
    """The largest set of rows whose clocks cover the same, and the rest with what differs.

    Between sets of one size, the one that holds the reference recipe.
    """
    sets: dict[tuple[Any, ...], list[Row]] = {}
    for row in measured:
        sets.setdefault(tuple(row.get(name) for name in _RANKING_CONTRACT), []).append(row)

    def weight(rows: list[Row]) -> tuple[int, bool]:
        return len(rows), any(row["recipe"] == reference_recipe for row in rows)

    ranked = max(sets.values(), key=weight)
    unranked = [
        (row, f"not ranked: {_difference(row, ranked[0], _RANKING_CONTRACT)}")
        for rows in sets.values()
        if rows is not ranked
        for row in rows
    ]
    return ranked, unranked


def _difference(row: Row, other: Row, names: Sequence[str]) -> str:
    return ", ".join(
        f"{name.removeprefix('contract_')} is {row.get(name)} where the others have "
        f"{other.get(name)}"
        for name in names
        if row.get(name) != other.get(name)
    )


def _objection(row: Row, allowed_drop: float) -> str | None:
    """Why a row does not qualify, or None.

    A prediction that agrees with the reference's is as right as that one, so that accuracy drops
    by at most the share of disagreements: that share bounds it where there are no labels.
    """
    limit = f"{units.points(allowed_drop)} allowed"
    if row.get("accuracy_drop") is not None:
        bound = row.get("accuracy_drop_bound")
        if bound is None:
            return "its accuracy drop has no bound"
        if within(bound, allowed_drop):
            return None
        if row["accuracy_drop"] > allowed_drop:
            return f"accuracy drops by {units.accuracy_drop(row)}, {limit}"
        return (
            f"{_examples(row)} cannot rule out a drop of {units.points(bound)} points "
            f"({units.accuracy_drop(row)} seen), {limit}"
        )
    agreement = row.get("top1_agreement")
    if agreement is not None and 1 - agreement > allowed_drop:
        return f"{units.points(1 - agreement)} % of its predictions differ from the reference's"
    return None


def _caveats(
    ship: Row,
    tied: Sequence[Row],
    ranked: Sequence[Row],
    refused: Sequence[tuple[Row, str]],
) -> Iterable[str]:
    others = [row for row in tied if row is not ship]
    if others:
        because = (
            "the smallest artifact of them"
            if all(_size(ship) < _size(row) for row in others)
            else "no larger and no more steps than they are"
        )
        names = ", ".join(build_name(row) for row in others)
        verb = "is" if len(others) == 1 else "are"
        yield (
            f"No significant difference in speed: {names} {verb} tied with it (the intervals "
            f"overlap). It was chosen as {because}."
        )
    if ship.get("accuracy_drop") is None:
        if (agreement := ship.get("top1_agreement")) is not None:
            yield (
                "No accuracy was measured: judged by fidelity to the fp32 reference "
                f"({units.points(agreement)} % of its predictions are the same)."
            )
        else:
            yield (
                "No accuracy was measured: judged by fidelity alone (its outputs are within the "
                "tolerance that its recipe declares)."
            )
    faster = [(r, why) for r, why in refused if _p50(r) < _p50(ship)]
    for row, why in sorted(faster, key=lambda item: _p50(item[0]))[:3]:
        yield f"{build_name(row)} is faster ({units.latency(row)}), but {why}."
    if len({row.get("block") for row in ranked}) > 1:
        yield (
            "Not all builds were measured in one interleaved block: a drift of the machine "
            "between blocks may be part of the differences."
        )
    if len({row.get("contract_io_binding") for row in ranked}) > 1:
        yield "Inputs and outputs are bound before the clock for some runtimes only."
    if ship.get("latency_p50_low_ms") is None:
        yield "Its latency has no interval: whether it is really the fastest is not known."
    if fallback := ship.get("fallback"):
        yield f"It did not run quite as asked: {fallback}."


def _sentence(ship: Row, baseline: Row | None, speedup: Speedup | None, allowed_drop: float) -> str:
    parts = [
        f"Ship {build_name(ship)} for {_place((ship['model'], ship['workload'], ship['device']))}: "
    ]
    parts.append(units.latency(ship))
    if baseline is ship:
        parts.append(", and nothing that qualifies is faster than this reference build")
    elif baseline is not None and speedup is not None:
        parts.append(f", {speedup} as fast as the best {build_name(baseline)}")
        parts.append(f" ({units.latency(baseline)})")
        if ship.get("artifact_bytes") and baseline.get("artifact_bytes"):
            ratio = ship["artifact_bytes"] / baseline["artifact_bytes"]
            parts.append(f", {ratio:.2f} of its size ({units.binary(ship['artifact_bytes'])})")
    if ship.get("accuracy_drop") is not None:
        parts.append(
            f"; accuracy drop {units.accuracy_drop(ship)}, with 95 % confidence at most "
            f"{units.points(ship['accuracy_drop_bound'])} where {units.points(allowed_drop)} is "
            "allowed"
        )
    elif ship.get("metric_value") is not None and ship.get("metric_reference") is not None:
        parts.append(
            f"; {ship.get('metric') or 'metric'} {units.number(ship['metric_value'])} where the "
            f"reference has {units.number(ship['metric_reference'])}"
        )
    return "".join(parts) + "."


def _nothing_measured(key: tuple[str, str, str], group: list[Row]) -> str:
    counts: dict[str, int] = {}
    for row in group:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"Nothing to ship for {_place(key)}: no build was measured ({listed})."


def _speedup(row: Row, over: Row) -> Speedup:
    def ratio(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    return Speedup(
        _p50(over) / _p50(row) if _p50(row) else float("inf"),
        ratio(over.get("latency_p50_low_ms"), row.get("latency_p50_high_ms")),
        ratio(over.get("latency_p50_high_ms"), row.get("latency_p50_low_ms")),
    )


def _overlap(one: Row, other: Row) -> bool:
    low, high = _ends(one)
    other_low, other_high = _ends(other)
    return low <= other_high and other_low <= high


def _ends(row: Row) -> tuple[float, float]:
    low, high = row.get("latency_p50_low_ms"), row.get("latency_p50_high_ms")
    return (_p50(row) if low is None else low), (_p50(row) if high is None else high)


def _most_accurate(rows: Sequence[Row]) -> Row | None:
    scored = [row for row in rows if row.get("accuracy_drop") is not None]
    by: Callable[[Row], tuple[float, float]] = lambda row: (row["accuracy_drop"], _p50(row))  # noqa: E731
    return min(scored, key=by, default=None)


def build_name(row: Row) -> str:
    """``int8-static on onnxruntime-cpu``, with the attention where it was chosen."""
    attention = row.get("attention") or "default"
    with_attention = "" if attention == "default" else f" with {attention} attention"
    return f"{row['recipe']} on {row['runtime']}{with_attention}"


def _place(key: tuple[str, str, str]) -> str:
    model, workload, device = key
    return f"{model}, {workload} on {device}"


def _examples(row: Row) -> str:
    count = row.get("examples")
    return "its test split" if count is None else f"{count:,} examples"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _p50(row: Row) -> float:
    return row["latency_p50_ms"]


def _size(row: Row) -> float:
    size = row.get("artifact_bytes")
    return float("inf") if size is None else size


def _steps(row: Row) -> int:
    lineage = row.get("lineage")
    return len(json.loads(lineage)) if lineage else 0
