"""Load rows as a table: what was offered, what was achieved, and how long requests took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from reports import units

Row = Mapping[str, Any]

NOTE = (
    "Requests that arrive by themselves, timed from their intended arrival, so that a stall is in "
    "every request that it kept waiting. Latencies stand beside the rate at which they were taken. "
    "A saturated session has none: its queue grows as long as one looks. These rows are not ranked."
)


def load_rows(rows: Iterable[Row]) -> list[Row]:
    """Those of load workloads that can be told of: the measured ones, the saturated ones and the
    searches whose every rate missed, by model, device, build and offered rate."""
    told = [row for row in rows if row.get("load") is not None and _told(row)]
    return sorted(
        told,
        key=lambda row: (
            *(row["model"], row["device"], row["recipe"], row["runtime"]),
            *(row.get("attention") or "", _KINDS.index(row["load"]), _rate(row), row["workload"]),
        ),
    )


_KINDS = ("open", "closed", "capacity")


def _told(row: Row) -> bool:
    return row["status"] == "ok" or row.get("offered_requests_per_s") is not None or unmet(row)


def _rate(row: Row) -> float:
    return row.get("requested_requests_per_s") or 0.0


def plain_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows of calls that are made one after the other: what is ranked."""
    return [row for row in rows if row.get("load") is None]


def time(row: Row, name: str) -> str:
    """``4.31 ms [4.28, 4.35]`` of ``e2el_p50`` and its like; ``insufficient`` likewise."""
    value = row.get(f"{name}_ms")
    if value is None:
        lacking = (row.get("insufficient") or "").split(", ")
        return "insufficient" if name in lacking else units.NOTHING
    low, high = row.get(f"{name}_low_ms"), row.get(f"{name}_high_ms")
    scale, unit = (0.001, "s") if value >= 10_000 else (1, "ms")
    digits = units.decimals(value * scale)
    return f"{value * scale:.{digits}f} {unit}" + units.interval(low, high, scale, digits)


def offered(row: Row) -> str:
    """``61.2/s``, or the clients of a closed loop."""
    if row["load"] == "closed":
        return f"{row.get('concurrency')} clients"
    value = row.get("offered_requests_per_s")
    return units.NOTHING if value is None else f"{units.number(value)}/s"


def achieved(row: Row) -> str:
    """The share of the offered rate that was served, and that it is saturated, keeps its SLO at no
    rate or has no figures for another reason."""
    ratio = row.get("achieved_over_offered")
    parts = [] if ratio is None else [f"{100 * ratio:.0f} %"]
    if saturated(row):
        parts.append("saturated")
    elif unmet(row):
        parts.append("SLO not met")
    elif row["status"] != "ok":
        parts.append(row["status"])
    return ", ".join(parts) or units.NOTHING


def saturated(row: Row) -> bool:
    """Its reason says so; a session may fail, or be too short to tell of, without it."""
    return (row.get("reason") or "").startswith("saturated")


def unmet(row: Row) -> bool:
    """Whether it is of a search that was shown a rate to miss its SLO and none to keep it."""
    met, missed = row.get("capacity_requests_per_s"), row.get("capacity_missed_requests_per_s")
    return met is None and missed is not None


def capacity(row: Row) -> str:
    """``612/s [met], 790/s [missed]`` as ``612 to 790/s``; one end where the other is unknown."""
    if row["load"] != "capacity":
        return units.NOTHING
    met, missed = row.get("capacity_requests_per_s"), row.get("capacity_missed_requests_per_s")
    if met is None:
        return units.NOTHING if missed is None else f"below {units.number(missed)}/s"
    end = "" if missed is None else f" to {units.number(missed)}"
    return f"{units.number(met)}{end}/s" if end else f"at least {units.number(met)}/s"


def given_up(row: Row) -> str:
    """Requests that were not begun in time; nothing where there were none."""
    return units.number(row.get("requests_given_up") or None)


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name) or units.NOTHING)


def _share(name: str) -> Callable[[Row], str]:
    return lambda row: units.NOTHING if row.get(name) is None else f"{100 * row[name]:.0f} %"


def _per_s(name: str) -> Callable[[Row], str]:
    return lambda row: f"{units.number(row.get(name))}/s" if row.get(name) else units.NOTHING


Heading = tuple[str, Callable[[Row], str]]

_COLUMNS: tuple[tuple[Heading, bool], ...] = (
    (("workload", _text("workload")), True),
    (("offered", offered), True),
    (("achieved", achieved), True),
    (("busy", _share("utilisation")), True),
    (("throughput", _per_s("request_throughput_per_s")), False),
    (("goodput", _per_s("request_goodput_per_s")), False),
    (("e2el p50", lambda row: time(row, "e2el_p50")), True),
    (("e2el p90", lambda row: time(row, "e2el_p90")), False),
    (("e2el p99", lambda row: time(row, "e2el_p99")), True),
    (("service p50", lambda row: time(row, "service_p50")), False),
    (("given up", given_up), True),
    (("capacity", capacity), True),
    (("SLO", _text("slo")), False),
)


def headings(rows: Sequence[Row], narrow: bool) -> list[Heading]:
    """The axes that vary, then what any row has; ``narrow`` is what fits into a terminal."""
    chosen: list[Heading] = []
    for axis in ("model", "recipe", "runtime", "attention", "device"):
        if axis == "recipe" or len({row.get(axis) for row in rows}) > 1:
            chosen.append((axis, _text(axis)))
    for heading, short in _COLUMNS:
        if (short or not narrow) and any(heading[1](row) != units.NOTHING for row in rows):
            chosen.append(heading)
    return chosen
