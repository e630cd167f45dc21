"""What to ship and why, for each model, workload and device of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports import units, wording
from reports.ranking import Ratio, alike, relative_times, size, steps, time_ratio, was_timed

Row = Mapping[str, Any]

ALLOWED_DROP = 0.01
REFERENCE_RECIPE = "fp32"
TIE_MARGIN = 1.1
"""A build is as good as the fastest when it is known to take at most this many times as long. One
that merely cannot be told from it may be much slower, and is not chosen for its size."""


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
    speedup: Ratio | None = None
    """How many times as fast as ``baseline`` it is."""
    tied: tuple[Row, ...] = ()
    """Qualified rows whose speed cannot be told from the fastest one's; ``ship`` among them."""
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
    """One decision for each (model, workload, device), in order of first appearance; none for the
    workloads under load, which have a table of their own.

    Among the rows that are ``ok`` and whose contracts are alike, the fastest qualifies whose
    one-sided 95 % bound of the accuracy drop is below ``allowed_drop``. A row without accuracy
    is judged by its agreement with the reference, and the decision says so. Of rows that cannot
    be told apart by speed, and are known to be close, the smallest artifact wins, then the one of
    fewer steps. Speeds are compared by the rounds that two rows shared, where they did.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.get("load") is not None:
            continue  # a request's time holds its waiting, and is no build's own
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
    measured = [row for row in group if was_timed(row)]
    if not measured:
        return Decision(*key, ship=None, sentence=wording.nothing_measured(key, group))
    ranked, unranked = alike(measured, reference_recipe)
    times = relative_times(measured)

    def time(row: Row) -> float:
        return times[id(row)]

    lost = [row for row in ranked if math.isinf(time(row))]
    unranked += [(row, "not ranked: nothing compares it with the others") for row in lost]
    ranked = [row for row in ranked if not math.isinf(time(row))]
    qualified, refused = [], []
    for row in ranked:
        if objection := _objection(row, allowed_drop):
            refused.append((row, objection))
        else:
            qualified.append(row)
    baseline = min((r for r in ranked if r["recipe"] == reference_recipe), key=time, default=None)
    if not qualified:
        return Decision(
            *key,
            ship=None,
            sentence=wording.nothing_qualifies(key, ranked, allowed_drop),
            baseline=baseline,
            most_accurate=_most_accurate(ranked, time),
            refused=tuple(refused),
            unranked=tuple(unranked),
        )
    fastest = min(qualified, key=time)
    near = [(row, time_ratio(row, fastest)) for row in qualified]
    tied = [row for row, r in near if r is not None and not r.decided and r.within(TIE_MARGIN)]
    tied = tied if any(row is fastest for row in tied) else [fastest, *tied]
    unclear = [row for row, r in near if r is None or not (r.decided or r.within(TIE_MARGIN))]
    ship = min(tied, key=lambda row: (size(row), steps(row), time(row)))
    gain = None if baseline is None else time_ratio(baseline, ship)
    aside = [*refused, *unranked]
    faster = sorted(
        (item for item in aside if _known_faster(item[0], ship)), key=lambda item: time(item[0])
    )
    return Decision(
        *key,
        ship=ship,
        sentence=wording.sentence(ship, baseline, gain, allowed_drop),
        baseline=baseline,
        speedup=gain,
        tied=tuple(sorted(tied, key=time)) if len(tied) > 1 else (),
        smallest=min(qualified, key=lambda row: (size(row), time(row))),
        most_accurate=_most_accurate(qualified, time),
        refused=tuple(refused),
        unranked=tuple(unranked),
        caveats=tuple(wording.caveats(ship, tied, unclear, ranked, faster)),
    )


def _known_faster(row: Row, ship: Row) -> bool:
    ratio = time_ratio(row, ship)
    return ratio is not None and ratio.value < 1 and ratio.decided


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
            return f"{units.drop_name(row)} {units.accuracy_drop(row)}, {limit}"
        return (
            f"{_examples(row)} cannot rule out {units.loss(row, bound)} "
            f"({units.accuracy_drop(row)} seen), {limit}"
        )
    agreement = row.get("top1_agreement")
    if agreement is not None and 1 - agreement > allowed_drop:
        return f"{units.points(1 - agreement)} % of its predictions differ from the reference's"
    return None


def _most_accurate(rows: Sequence[Row], time: Callable[[Row], float]) -> Row | None:
    scored = [row for row in rows if row.get("accuracy_drop") is not None]
    return min(scored, key=lambda row: (row["accuracy_drop"], time(row)), default=None)


def _examples(row: Row) -> str:
    count = row.get("examples")
    return "its test split" if count is None else f"{count:,} examples"
