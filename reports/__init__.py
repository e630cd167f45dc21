"""Rows become tables and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.results import Results, load

__all__ = ["Results", "load"]


def __getattr__(name: str) -> Any:
    # pandas takes half a second and 60 MiB: whoever only writes rows need not pay for it.
    if name in __all__:
        import reports.results

        return getattr(reports.results, name)
    raise AttributeError(f"module 'reports' has no attribute {name!r}")
