"""Numbers as people read them: a unit that fits, and the interval beside the value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOTHING = "–"
"""What stands where there is no number."""


def latency(row: Mapping[str, Any], quantile: str = "p50") -> str:
    """``4.31 ms [4.28, 4.35]``; ``insufficient`` where the sample cannot support the quantile."""
    value = row.get(f"latency_{quantile}_ms")
    if value is None:
        lacking = (row.get("insufficient") or "").split(",")
        return "insufficient" if quantile in [name.strip() for name in lacking] else NOTHING
    low, high = row.get(f"latency_{quantile}_low_ms"), row.get(f"latency_{quantile}_high_ms")
    scale, unit = (1000, "µs") if value < 1 else (0.001, "s") if value >= 10_000 else (1, "ms")
    digits = decimals(value * scale)
    text = f"{value * scale:.{digits}f} {unit}"
    return text + interval(low, high, scale, digits)


def milliseconds(value: float | None) -> str:
    """``4.31 ms``, in µs below one and in s from ten thousand."""
    return latency({"latency_p50_ms": value})


def accuracy_drop(row: Mapping[str, Any]) -> str:
    """``0.21 points [-0.10, 0.52]``: the drop in hundredths, with its paired interval. Of bits per
    byte it is a rise relative to the reference's, in per cent."""
    value = row.get("accuracy_drop")
    if value is None:
        return NOTHING
    text = f"{points(value)} {'%' if _of_bits(row) else 'points'}"
    return text + interval(row.get("accuracy_drop_low"), row.get("accuracy_drop_high"), 100, 2)


def bare_drop(row: Mapping[str, Any]) -> str:
    """``accuracy_drop`` without its unit, for a column that has it in its heading."""
    return accuracy_drop(row).replace(" points", "").replace(" %", "")


def loss(row: Mapping[str, Any], share: float) -> str:
    """``a drop of 1.00 points``, or ``a rise of 1.00 %`` where bits per byte are asked."""
    return f"a rise of {points(share)} %" if _of_bits(row) else f"a drop of {points(share)} points"


def drop_name(row: Mapping[str, Any]) -> str:
    """What ``accuracy_drop`` says of the row's task."""
    return "rise in bits per byte" if _of_bits(row) else "accuracy drop"


def _of_bits(row: Mapping[str, Any]) -> bool:
    return row.get("metric") == "bits_per_byte"


def speedup(row: Mapping[str, Any]) -> str:
    """``1.93x [1.84, 2.03]``: as many times as fast as the fp32 build on the same runtime."""
    value = row.get("speedup")
    if value is None:
        return NOTHING
    return f"{value:.2f}x" + interval(row.get("speedup_low"), row.get("speedup_high"), 1, 2)


def speed(row: Mapping[str, Any]) -> str:
    """The median latency; where the machine was too restless for it, the speed-up."""
    if row.get("latency_p50_ms") is None and row.get("speedup") is not None:
        return f"{speedup(row)} as fast as its fp32"
    return latency(row)


def points(share: float) -> str:
    """A share as points of a hundred, two decimals, never ``-0.00``."""
    return f"{round(100 * share, 2) + 0.0:.2f}"


def interval(low: float | None, high: float | None, scale: float, digits: int) -> str:
    """`` [low, high]``, or nothing where an end is missing."""
    if low is None or high is None:
        return ""
    return f" [{low * scale:.{digits}f}, {high * scale:.{digits}f}]"


def parted(shown: str) -> tuple[str, str]:
    """``4.31 ms [4.28, 4.35]`` as its number and its interval, as ``interval`` gave it."""
    number, bracket, rest = shown.partition(" [")
    return number, bracket + rest


def binary(count: float | None) -> str:
    """``17.6 MiB``."""
    if count is None:
        return NOTHING
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} B" if unit == "B" else f"{size:.{decimals(size)}f} {unit}"


def seconds(value: float | None) -> str:
    """``83 ms``, ``2.4 s``, ``1 min 23 s``."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def number(value: float | None) -> str:
    """Three significant digits; from a thousand on, whole with separators."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def decimals(value: float) -> int:
    """Decimals that show three significant digits of ``value``, at most 4."""
    if value == 0 or not math.isfinite(value):
        return 2
    return min(max(2 - math.floor(math.log10(abs(value))), 0), 4)
