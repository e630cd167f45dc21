"""A decision in plain English: the answer in a sentence, and what to know before believing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reports import units
from reports.ranking import Ratio, size

Row = Mapping[str, Any]


def sentence(ship: Row, baseline: Row | None, speedup: Ratio | None, allowed_drop: float) -> str:
    """What to ship, how much faster and smaller it is, and what it costs in accuracy."""
    parts = [
        f"Ship {build_name(ship)} for {_place((ship['model'], ship['workload'], ship['device']))}: "
    ]
    parts.append(_latency(ship))
    if baseline is ship:
        parts.append(", and nothing that qualifies is faster than this reference build")
    elif baseline is not None and speedup is not None:
        parts.append(f", {speedup} as fast as the best {build_name(baseline)}")
        elsewhen = "" if _agree(ship, baseline, speedup) else ", at another speed of the machine"
        parts.append(f" ({_latency(baseline)}{elsewhen})")
        if ship.get("artifact_bytes") and baseline.get("artifact_bytes"):
            ratio = ship["artifact_bytes"] / baseline["artifact_bytes"]
            parts.append(f", {ratio:.2f} of its size ({units.binary(ship['artifact_bytes'])})")
    if ship.get("accuracy_drop") is not None:
        parts.append(
            f"; {units.drop_name(ship)} {units.accuracy_drop(ship)}, with 95 % confidence at most "
            f"{units.points(ship['accuracy_drop_bound'])} where {units.points(allowed_drop)} is "
            "allowed"
        )
    elif ship.get("metric_value") is not None and ship.get("metric_reference") is not None:
        parts.append(
            f"; {ship.get('metric') or 'metric'} {units.number(ship['metric_value'])} where the "
            f"reference has {units.number(ship['metric_reference'])}"
        )
    return "".join(parts) + "."


def nothing_measured(key: tuple[str, str, str], group: list[Row]) -> str:
    """The answer where no row has a latency: how many ended in which status."""
    counts: dict[str, int] = {}
    for row in group:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    if counts.get("ok"):
        return (
            f"Nothing to ship for {_place(key)}: no build's latency is known closely enough, and "
            f"none took turns with another ({listed}); give measure.max_seconds more time."
        )
    return f"Nothing to ship for {_place(key)}: no build was measured ({listed})."


def nothing_qualifies(
    key: tuple[str, str, str], measured: Sequence[Row], allowed_drop: float
) -> str:
    """The answer where every build that was measured loses too much."""
    return (
        f"Nothing to ship for {_place(key)}: {_count(len(measured), 'build')} measured, none "
        f"within {units.loss(measured[0], allowed_drop)}, the most that is allowed."
    )


def caveats(
    ship: Row,
    tied: Sequence[Row],
    unclear: Sequence[Row],
    ranked: Sequence[Row],
    faster: Sequence[tuple[Row, str]],
) -> Iterable[str]:
    """What a reader must know before believing the sentence.

    ``unclear`` are those that may be as fast and may be much slower. ``faster`` are those that are
    faster and could not be shipped, each with the reason, the fastest first.
    """
    others = [row for row in tied if row is not ship]
    if others:
        because = (
            "the smallest artifact of them"
            if all(size(ship) < size(row) for row in others)
            else "no larger and no more steps than they are"
        )
        names = ", ".join(build_name(row) for row in others)
        verb = "is" if len(others) == 1 else "are"
        yield (
            f"No significant difference in speed: {names} {verb} tied with it (the interval of "
            f"the ratio holds 1). It was chosen as {because}."
        )
    if unclear:
        names = ", ".join(build_name(row) for row in unclear)
        yield f"Not told apart from the fastest, nor known to be close: {names}."
    if ship.get("accuracy_drop") is None:
        if (agreement := ship.get("top1_agreement")) is not None:
            yield (
                "No accuracy was measured: judged by fidelity to the fp32 reference "
                f"({units.points(agreement)} % of {_predictions(ship)} are the same)."
            )
        else:
            yield (
                "No accuracy was measured: judged by fidelity alone (its outputs are within the "
                "tolerance that its recipe declares)."
            )
    for row, why in faster[:3]:
        yield f"{build_name(row)} is faster ({_latency(row)}), but {why}."
    if len({row.get("block") for row in ranked}) > 1:
        yield (
            "Not all builds were measured in one interleaved block: a drift of the machine "
            "between blocks may be part of the differences."
        )
    if len({row.get("contract_io_binding") for row in ranked}) > 1:
        yield "Inputs and outputs are bound before the clock for some runtimes only."
    if ship.get("latency_p50_low_ms") is None and not ship.get("compared"):
        yield "Its latency has no interval: whether it is really the fastest is not known."
    elif any(row.get("latency_p50_ms") is None for row in ranked):
        yield (
            "The machine was too restless for some builds' own latency; they are ranked by the "
            "rounds in which they took turns with the others."
        )
    if alone := [row for row in ranked if processes(row) == 1]:
        who = "Each build was" if len(alone) == len(ranked) else "Some builds were"
        yield (
            f"{who} measured in one process, and intervals are of its calls: another process of "
            "the same build may be a few per cent faster or slower. Several show by how much "
            "([measure] processes)."
        )
    if fallback := ship.get("fallback"):
        yield f"It did not run quite as asked: {fallback}."


def processes(row: Row) -> int:
    """That a measured row's calls are of; tables from before this was told are of one."""
    return int(row.get("processes") or 1)


def build_name(row: Row) -> str:
    """``int8-static on onnxruntime-cpu``, with the attention where it was chosen."""
    attention = row.get("attention") or "default"
    with_attention = "" if attention == "default" else f" with {attention} attention"
    return f"{row['recipe']} on {row['runtime']}{with_attention}"


def _predictions(row: Row) -> str:
    count = row.get("fidelity_predictions")
    return "its predictions" if count is None else _count(count, "prediction")


def _latency(row: Row) -> str:
    if row.get("latency_p50_ms") is None:
        return "its own latency not known closely enough"
    return units.latency(row)


def _agree(ship: Row, baseline: Row, speedup: Ratio) -> bool:
    """Whether the two latencies can have the quotient that their common rounds gave.

    They cannot where one build took turns that the other did not, on a machine that was faster or
    slower then: the rounds are right about the two, and each latency about its own turns.
    """
    known: list[Any] = [
        row.get(f"latency_p50_{end}_ms") for row in (ship, baseline) for end in ("low", "high")
    ]
    if speedup.low is None or speedup.high is None or any(value is None for value in known):
        return True
    low, high, baseline_low, baseline_high = known
    return bool(baseline_low / high <= speedup.high and speedup.low <= baseline_high / low)


def _place(key: tuple[str, str, str]) -> str:
    model, workload, device = key
    return f"{model}, {workload} on {device}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
