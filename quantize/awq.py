"""AWQ as a pass: an exact change of the graph, after which rounding hurts the outputs less.

The scales of the layers that share an input are searched on calibration data for the rounding that
will follow, and moved into whoever makes that input (``quantize/absorb.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compile.artifact import Artifact, Made
from compile.data import DataSource
from compile.graph import load_onnx, save_onnx
from compile.parity import parity_feeds
from quantize.absorb import Group, absorb, groups
from quantize.audit import PassFailed, audit_onnx, check_examples, check_exclude, check_matched
from quantize.gram import InputStatistics, input_statistics
from quantize.linear import linear_layers
from quantize.passes import Awq
from quantize.rounding.awq import Scaling, search_scales, squared_error
from quantize.rounding.gptq import gptq
from quantize.rounding.hqq import hqq
from quantize.rounding.rtn import round_to_nearest

EXACT_DB = 80.0
"""Floor of the signal-to-noise ratio of the scaled graph: nothing but float32's rounding."""


def make_awq(
    source: Artifact,
    asked: Awq,
    folder: Path,
    data: DataSource,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on an ONNX artifact and audit the result.

    Facts: by the first layer of each group ``alpha`` and ``error_ratio``, the error of the rounded
    outputs over that without scaling; which groups were ``absorbed``, ``inserted`` or, for want of
    a place, ``left``. Raises PassFailed where no layer gains.
    """
    model = load_onnx(source.folder)
    selection = linear_layers(model, asked.exclude)
    check_exclude(asked.name, asked.exclude, selection.names)
    facts: dict[str, Any] = check_matched(asked.name, selection)
    examples = check_examples(asked.name, "passes.examples", data, asked.examples)
    progress(f"awq: calibrating on {examples} examples")
    everyone = groups(model, selection.layers)
    able = [group for group in everyone if group.homes or asked.insert]
    by_input = {group.input: group for group in able}
    widths = {name: group.width for name, group in by_input.items()}
    found: dict[str, Scaling] = {}
    for seen in input_statistics(source.folder, widths, lambda: data.calibration(examples)):
        for name, statistics in seen.items():
            progress(f"awq: searching, input {len(found) + 1} of {len(able)}")
            found[name] = best_scaling(by_input[name], statistics, asked)
    scaled = [group for group in able if found[group.input].alpha > 0]
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
    facts |= audit_onnx(asked.name, source, folder, audited, EXACT_DB, kernels=0)
    return Made("onnx", source.signature, facts)


def best_scaling(group: Group, seen: InputStatistics, asked: Awq) -> Scaling:
    """The search with weights rounded one by one (GPTQ for each of its steps would take too long);
    what it finds has to hold with GPTQ too, or the group stays as it is."""
    weights = [layer.values() for layer in group.layers]
    one_by_one = hqq if asked.rounding == "hqq" else round_to_nearest
    scaling = search_scales(
        weights,
        seen.magnitudes,
        seen.gram,
        lambda weight: one_by_one(weight, asked.block, asked.symmetric, asked.bits).dequantize(),
    )
    if asked.rounding != "gptq" or scaling.alpha == 0:
        return scaling
    power = sum(squared_error(weight, seen.gram) for weight in weights)
    errors = []
    for scales in (scaling.scales, np.ones_like(scaling.scales)):
        column = scales[:, None]
        gram = seen.gram / column / scales
        errors.append(
            sum(
                squared_error(
                    gptq(
                        weight * column, gram, asked.block, asked.symmetric, asked.bits
                    ).dequantize()
                    / column
                    - weight,
                    seen.gram,
                )
                for weight in weights
            )
            / power
        )
    if errors[0] < errors[1]:
        return Scaling(scaling.scales, scaling.alpha, errors[0], errors[1])
    return Scaling(np.ones_like(scaling.scales), 0.0, errors[1], errors[1])
