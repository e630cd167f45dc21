"""Rows become tables and pictures."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.publish import write
    from reports.results import Results, load

__all__ = ["Results", "load", "write"]

_HOMES = {"Results": "reports.results", "load": "reports.results", "write": "reports.publish"}


def __getattr__(name: str) -> Any:
    # Whoever only records rows pays for neither the figures nor the readers.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'reports' has no attribute {name!r}")
