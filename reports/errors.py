"""The one way in which writing or reading results fails."""

from __future__ import annotations


class ReportError(ValueError):
    """A results folder, a row or a file in it cannot be used. The message is one line that names
    the file or the column and the way out."""
