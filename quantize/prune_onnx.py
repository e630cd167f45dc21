"""Pruning of an ONNX graph: weights of its linear layers become zero. Nothing is trained.

The inputs of all layers are watched in the graph as it stands, before any of them is pruned: a
graph is not cut into blocks that could be pruned one after another, as a torch module is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper

from compile.artifact import Artifact, Made
from compile.data import DataSource
from compile.graph import MODEL, load_onnx, save_onnx
from compile.parity import parity_feeds
from quantize.audit import OnnxRun, check_examples, check_exclude, check_faithful, check_matched
from quantize.gram import InputStatistics, input_statistics
from quantize.linear import Footprint, Selection, linear_layers
from quantize.passes import Prune
from quantize.prune import error_facts, magnitude_masks, prune_layer
from quantize.pruning.proof import check_weights, check_zeros, reconstruction_error, zero_share


def make_pruned_onnx(
    source: Artifact,
    asked: Prune,
    folder: Path,
    data: DataSource | None,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on an ONNX artifact and audit the result.

    Facts: those of a torch module but for the recovery; layers go by their weights' names.
    """
    model = load_onnx(source.folder)
    selection = linear_layers(model, asked.exclude)
    check_exclude(asked.name, asked.exclude, selection.names)
    facts: dict[str, Any] = {"method": asked.method, **check_matched(asked.name, selection)}
    facts["weights_share"] = Footprint(model, selection.layers).share
    weights = _arrays(selection)
    check_weights(asked.name, weights, asked.n_of_m)
    if asked.calibration and data is not None:
        progress("prune: calibrating")
        pruned, found = _calibrated(source, selection, weights, asked, data)
        facts |= found
    else:
        masks = magnitude_masks(weights, asked)
        pruned = {name: weight * masks[name] for name, weight in weights.items()}
    for name, tensor in selection.weights.items():
        values = np.ascontiguousarray(pruned[name].T, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    save_onnx(model, folder)
    saved = _arrays(linear_layers(load_onnx(folder), asked.exclude))
    facts |= check_zeros(asked.name, saved, asked.share, asked.n_of_m, zero_share(weights))
    before, after = (OnnxRun(asked.name, where / MODEL) for where in (source.folder, folder))
    feeds = (feeds for _, feeds in parity_feeds(source.signature))
    facts |= check_faithful(asked.name, before, after, feeds, -math.inf)
    return Made("onnx", source.signature, facts)


def _calibrated(
    source: Artifact,
    selection: Selection,
    weights: dict[str, np.ndarray],
    asked: Prune,
    data: DataSource,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The pruned weights, and what that cost the outputs of the layers."""
    examples = check_examples(asked.name, "examples", data, asked.calibration)
    chosen = magnitude_masks(weights, asked) if asked.method == "magnitude" else None
    pruned: dict[str, np.ndarray] = {}
    errors: dict[str, float] = {}
    # An input may have several readers, and a weight several inputs.
    reads = {(layer.node.input[0], layer.weight.name): None for layer in selection.layers}
    inputs_left = Counter(name for _, name in reads)
    found: dict[str, InputStatistics] = {}
    widths = {value: weights[name].shape[1] for value, name in reads}
    for part in input_statistics(source.folder, widths, lambda: data.calibration(examples)):
        for value, name in reads:
            if value not in part:
                continue
            seen = found.setdefault(name, InputStatistics.of_width(widths[value]))
            seen.join(part[value])
            inputs_left[name] -= 1
            if inputs_left[name]:
                continue
            if chosen is not None:
                pruned[name] = weights[name] * chosen[name]
            else:
                pruned[name], _ = prune_layer(weights[name], seen.gram, asked)
            errors[name] = reconstruction_error(weights[name], pruned[name], seen.gram)
            del found[name]
    return pruned, {"calibration_examples": examples, **error_facts(errors)}


def _arrays(selection: Selection) -> dict[str, np.ndarray]:
    """The layers' weights as float32 (out, in), each once."""
    return {layer.weight.name: layer.values().T for layer in selection.layers}
