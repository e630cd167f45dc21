"""Which meters can be read on this machine, what each covers, and why the others cannot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from suites.measure.energy import energy_meters
from suites.measure.meters.gpu import Gpu
from suites.measure.meters.meter import Meter, why_not
from suites.measure.meters.pressure import Pressure
from suites.measure.meters.speed import Yardstick
from suites.measure.meters.surroundings import Surroundings, meters


def survey(gpu: bool, root: Path = Path("/")) -> dict[str, dict[str, str]]:
    """Each meter -> ``covers`` and ``absent``, the latter empty where it can be read."""
    device = "cuda:0" if gpu else "cpu"
    around: Sequence[Meter] = meters(os.getpid(), "cpu", 1.0, root, Yardstick(threads=1))
    if gpu:
        around = [*around, Gpu(device)]
    absent = Surroundings(around).absent
    apart: list[Meter] = [Pressure(root), *energy_meters(device, root)]
    absent |= {meter.name: why_not(meter) for meter in apart}
    return {
        meter.name: {"covers": meter.covers, "absent": absent.get(meter.name, "")}
        for meter in [*around, *apart]
    }
