"""The top of the page: what to ship and why, in words and in large numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import units
from reports.decision import Decision
from reports.figures.svg import Markup, element, join
from reports.wording import build_name

Row = Mapping[str, Any]


def answer(
    rows: Sequence[Row],
    run: Mapping[str, Any],
    decisions: Sequence[Decision],
    allowed_drop: float,
) -> Markup:
    """The headline, and a card for each decision."""
    measured = sum(row["status"] == "ok" for row in rows)
    facts = [
        str(run.get("suite") or "Assay"),
        f"{measured} of {len(rows)} cells measured",
        _when(rows),
    ]
    return element(
        "header",
        element("p", " · ".join(fact for fact in facts if fact), class_="eyebrow"),
        element("h1", _headline(decisions, any(row.get("load") for row in rows))),
        element("div", join([_card(d, allowed_drop) for d in decisions]), class_="cards"),
    )


def _when(rows: Sequence[Row]) -> str:
    """The minute in which the last row was written."""
    latest = max((row.get("finished_at") or "" for row in rows), default="")
    return f"{latest[:16].replace('T', ' ')} UTC" if latest else ""


def _headline(decisions: Sequence[Decision], under_load: bool) -> str:
    if not decisions:
        return "Measured under load" if under_load else "No cell in this run"
    ships = [(d, d.ship) for d in decisions if d.ship is not None]
    if not ships:
        return "Nothing to ship"
    names = dict.fromkeys(build_name(row) for _, row in ships)
    if len(names) == 1 and len(ships) == len(decisions):
        return f"Ship {next(iter(names))}"
    if len(ships) <= 3:
        listed = [f"{build_name(row)} for {d.model}, {d.workload}" for d, row in ships]
        if len({d.model for d in decisions}) == 1:
            listed = [f"{build_name(row)} for {d.workload}" for d, row in ships]
        rest = "" if len(ships) == len(decisions) else "; nothing for the rest"
        return "Ship " + "; ".join(listed) + rest
    return f"What to ship: {len(ships)} answers for {len(decisions)} questions"


def _card(decision: Decision, allowed_drop: float) -> Markup:
    place = f"{decision.model} · {decision.workload} · {decision.device}"
    style = "card" if decision.ship is not None else "card nothing"
    return element(
        "article",
        element("h2", place),
        _numbers(decision, allowed_drop),
        element("p", decision.sentence),
        _alternatives(decision),
        _list("caveats", decision.caveats),
        _refused(decision),
        class_=style,
    )


def _numbers(decision: Decision, allowed_drop: float) -> Markup | None:
    ship, baseline = decision.ship, decision.baseline
    if ship is None:
        return None
    tiles = []
    if decision.speedup is not None and baseline is not None and baseline is not ship:
        speedup = decision.speedup
        interval = units.interval(speedup.low, speedup.high, 1, 2).strip()
        tiles.append(
            ("speed-up", f"{speedup.value:.2f}×", interval, f"over best {baseline['recipe']}")
        )
    if ship.get("latency_p50_ms") is not None:
        number, interval = units.parted(units.latency(ship))
        tiles.append(("latency", number, interval.strip(), "median of one call"))
    if ship.get("artifact_bytes") is not None:
        size = units.binary(ship["artifact_bytes"])
        if baseline is not None and baseline is not ship and baseline.get("artifact_bytes"):
            ratio = ship["artifact_bytes"] / baseline["artifact_bytes"]
            tiles.append(
                ("size", f"{ratio:.2f}×", size, f"fp32: {units.binary(baseline['artifact_bytes'])}")
            )
        else:
            tiles.append(("size", size, "", "artifact"))
    if ship.get("accuracy_drop") is not None:
        number, interval = units.parted(units.accuracy_drop(ship))
        number, _, unit = number.partition(" ")
        allowed = f"{unit}, {100 * allowed_drop:g} allowed"
        tiles.append((units.drop_name(ship), number, interval.strip(), allowed))
    elif ship.get("top1_agreement") is not None:
        same = f"{100 * ship['top1_agreement']:.2f} %"
        tiles.append(("agreement", same, "", "predictions like the reference's"))
    return element("dl", join([_tile(*tile) for tile in tiles]), class_="tiles")


def _tile(name: str, value: str, interval: str, note: str) -> Markup:
    return element(
        "div",
        element("dt", name),
        element("dd", value, class_="big"),
        element("dd", interval or Markup("&nbsp;"), class_="interval"),
        element("dd", note, class_="dim"),
    )


def _alternatives(decision: Decision) -> Markup | None:
    """The smallest and the most accurate build, where they are not the one to ship."""
    lines = []
    for name, row in (("Smallest", decision.smallest), ("Most accurate", decision.most_accurate)):
        if row is None or row is decision.ship:
            continue
        facts = [units.speed(row), units.binary(row.get("artifact_bytes"))]
        if row.get("accuracy_drop") is not None:
            facts.append(f"{units.drop_name(row)} {units.accuracy_drop(row)}")
        lines.append(
            element("li", element("b", f"{name}: "), f"{build_name(row)} ({', '.join(facts)})")
        )
    return element("ul", join(lines), class_="alternatives") if lines else None


def _list(style: str, lines: Sequence[str]) -> Markup | None:
    if not lines:
        return None
    return element("ul", join([element("li", line) for line in lines]), class_=style)


def _refused(decision: Decision) -> Markup | None:
    aside = (*decision.refused, *decision.unranked)
    if not aside:
        return None
    count = len(aside)
    items = [
        element("li", element("b", build_name(row)), f" ({units.speed(row)}): {why}")
        for row, why in aside
    ]
    builds = "build was" if count == 1 else "builds were"
    return element(
        "details",
        element("summary", f"{count} measured {builds} not considered"),
        element("ul", join(items)),
    )
