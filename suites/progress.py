"""What the user sees while a command works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_LINE_EVERY = 10.0
"""Seconds between lines of one stage when there is no terminal to draw a bar on."""


class Display:
    """One bar for the whole run, and beside it what is being done right now.

    ``advance`` counts finished cells; ``stage`` names the present work. Without a terminal each
    new stage is one line, and a long stage repeats itself every ten seconds.
    """

    def __init__(self, total: int = 0, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._total = total
        self._done = 0
        self._stage = ""
        self._said_at = 0.0
        self._progress = Progress(
            *([TextColumn("{task.completed:.0f}/{task.total:.0f} cells")] if total else []),
            BarColumn() if total else SpinnerColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            console=self.console,
            transient=True,
            refresh_per_second=2,
            # Nothing may run beside the timed calls: drawn when told to, never by a thread.
            auto_refresh=False,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._progress.start()
            self._task = self._progress.add_task("", total=self._total, stage="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, text: str, fraction: float = 0.0) -> None:
        """Say what is being done and how far it has come (0 where that is unknown)."""
        shown = f"{text} ({fraction:.0%})" if fraction else text
        if self._task is not None:
            self._progress.update(self._task, stage=shown[: max(20, self.console.width - 50)])
            self._progress.refresh()
            return
        name = text.split(",")[0]
        now = time.monotonic()
        if name != self._stage or now - self._said_at >= _LINE_EVERY:
            self._line(shown)
            self._stage, self._said_at = name, now

    def advance(self, label: str, status: str) -> None:
        """One more cell has its row."""
        self._done += 1
        if self._task is not None:
            self._progress.update(self._task, completed=self._done)
            self._progress.refresh()
        elif status != "ok":
            self._line(f"{label}: {status}")

    def _line(self, text: str) -> None:
        self.console.print(
            f"[{self._done}/{self._total}] {text}" if self._total else text,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
