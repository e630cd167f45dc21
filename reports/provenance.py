"""What ``run.json`` says of a run's origin, as names and values that a report can list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reports.units import binary


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON as dotted names and text; only nulls are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        yield name, ", ".join(map(str, value))
    elif isinstance(value, int) and name.endswith("_bytes"):
        yield name.removesuffix("_bytes"), binary(value)
    elif value is not None:
        yield name or "value", value if isinstance(value, str) else json.dumps(value, default=str)
