"""Scale migration as a pass: an exact change of the graph, after which rounding hurts it less.

Layers that share an input get scales by channel, searched on calibration data; their input's are
moved into whoever makes it (``quantize/absorb.py``). What is searched is the business of the pass:
``quantize/awq.py``, ``quantize/smooth.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compile.artifact import Artifact, Made
from compile.data import DataSource
from compile.graph import load_onnx, save_onnx
from compile.parity import parity_feeds
from quantize.absorb import Group, absorb, groups
from quantize.audit import PassFailed, audit_onnx, check_examples, check_exclude, check_matched
from quantize.gram import InputStatistics, input_statistics
from quantize.linear import linear_layers
from quantize.passes import Awq, Smooth

EXACT_DB = 100.0
"""Floor of the signal-to-noise ratio of the scaled graph, a relative error of 1e-5: nothing but
float32's rounding."""


class Scaling(NamedTuple):
    """What a search found for the layers that share an input."""

    scales: np.ndarray
    """float32 (K,): what the weights' rows are multiplied by and the input is divided by."""
    alpha: float | None
    """The exponent that they came from; None where nothing is to be scaled."""
    error: float
    """Squared error of the rounded layers' outputs over the outputs' power."""
    error_before: float
    """The same without scaling."""


Search = Callable[[Group, InputStatistics], Scaling]


def make_scaled(
    source: Artifact,
    asked: Awq | Smooth,
    folder: Path,
    data: DataSource,
    progress: Callable[[str], None],
    search: Search,
) -> Made:
    """Carry out the pass on an ONNX artifact and audit the result.

    Facts: by the first layer of each group ``alpha`` and ``error_ratio``, the error of the rounded
    outputs over that without scaling; which groups were ``absorbed``, ``inserted`` or ``left``.
    Raises PassFailed where no layer gains.
    """
    model = load_onnx(source.folder)
    selection = linear_layers(model, asked.exclude)
    check_exclude(asked.name, asked.exclude, selection.names)
    facts: dict[str, Any] = check_matched(asked.name, selection)
    examples = check_examples(asked.name, "passes.examples", data, asked.examples)
    progress(f"{asked.name}: calibrating on {examples} examples")
    everyone = groups(model, selection.layers)
    by_input = {group.input: group for group in everyone if group.homes or asked.insert}
    widths = {name: group.width for name, group in by_input.items()}
    found: dict[str, Scaling] = {}
    for seen in input_statistics(source.folder, widths, lambda: data.calibration(examples)):
        for name, statistics in seen.items():
            progress(f"{asked.name}: searching, input {len(found) + 1} of {len(by_input)}")
            found[name] = search(by_input[name], statistics)
    scaled = [by_input[name] for name, scaling in found.items() if scaling.alpha is not None]
    if not scaled:
        raise PassFailed(
            asked.name, "effect", "a layer that loses less when it is scaled", "none; leave it out"
        )
    absorb(model, [(group, found[group.input].scales) for group in scaled])
    save_onnx(model, folder)
    named = {name: by_input[name].layers[0].node.name for name in found}
    facts |= {
        "calibration_examples": examples,
        "alpha": {named[name]: scaling.alpha for name, scaling in found.items()},
        "error_ratio": {
            named[name]: round(scaling.error / scaling.error_before, 4)
            for name, scaling in found.items()
            if scaling.error_before
        },
        "absorbed": sum(bool(group.homes) for group in scaled),
        "inserted": sum(not group.homes for group in scaled),
        "left": len(everyone) - len(scaled),
    }
    audited = (feeds for _, feeds in parity_feeds(source.signature))
    facts |= audit_onnx(asked.name, source, folder, audited, EXACT_DB)
    return Made("onnx", source.signature, facts)
