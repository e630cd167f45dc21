"""What the meters of a GPU have in common: a device that may be absent, or stop answering."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from runtimes.nvml import NvmlDevice, NvmlUnavailable
from suites.measure.meters.meter import Unreadable

T = TypeVar("T")


class NvmlMeter:
    """A meter that asks one device through NVML."""

    def __init__(self, device: str) -> None:
        self._device: NvmlDevice | None = None
        self._absent = ""
        try:
            self._device = NvmlDevice(device)
        except NvmlUnavailable as error:
            self._absent = str(error)

    def ask(self, question: Callable[[NvmlDevice], T]) -> T:
        """The device's answer. Raises Unreadable where there is none."""
        if self._device is None:
            raise Unreadable(self._absent)
        try:
            return question(self._device)
        except NvmlUnavailable as error:
            raise Unreadable(str(error)) from error
