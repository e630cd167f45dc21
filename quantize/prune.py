"""Pruning of a torch module: weights become zero, and the rest is trained to make up for it.

Which weights go, and where zeros may lie, is said by ``quantize/pruning/``. Zeros are stored like
any other number: the file shrinks only when it is compressed, and a runtime gains only with sparse
kernels, which no runtime of Assay uses. What the pass shows is how much of the model its accuracy
needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compile.artifact import Artifact, Made
from compile.data import Batch, DataSource
from compile.models.model import Model, load_model, save_model
from compile.parity import parity_feeds
from compile.train_settings import TrainSettings
from compile.training import Loss, cross_entropy, every_tenth, forward, train
from quantize.audit import PassFailed, check_examples, check_exclude, check_faithful
from quantize.distill import distillation_loss
from quantize.half import torch_run
from quantize.passes import Distill, Prune
from quantize.pruning.magnitude import global_magnitude_kept, magnitude_kept
from quantize.pruning.proof import check_weights, check_zeros, reconstruction_error, zero_share
from quantize.pruning.sequential import prune_in_order
from quantize.pruning.sparsegpt import sparsegpt
from quantize.pruning.wanda import wanda_kept
from quantize.weights import Weights, linear_weights


def make_pruned(
    source: Artifact,
    asked: Prune,
    folder: Path,
    data: DataSource | None,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on a torch artifact, recover, and audit the result.

    Facts: ``method`` and ``pattern``, proven on the saved weights; ``sparsity`` of all weights
    taken and ``sparsity_by_layer``; ``weights_share``, what those are of all weights of two axes,
    embeddings included; where it was calibrated, ``reconstruction_error`` by layer, before
    recovery; the recovery's loss curve.
    """
    reference, model = load_model(source.folder), load_model(source.folder)
    selection = linear_weights(model.inner, asked.exclude)
    check_exclude(asked.name, asked.exclude, selection.names)
    _check_taken(asked.name, selection)
    weights = _arrays(selection)
    check_weights(asked.name, weights, asked.n_of_m)
    before = zero_share(weights)
    facts: dict[str, Any] = {"method": asked.method}
    with torch.no_grad():
        if asked.calibration and data is not None:
            masks, found = _calibrated(model, selection, weights, asked, data)
            facts |= found
        else:
            masks = magnitude_masks(weights, asked)
    held = {name: torch.from_numpy(mask) for name, mask in masks.items()}

    def mask_weights(module: nn.Module) -> None:
        for name, mask in held.items():
            selection.matrix(name).mul_(mask)

    mask_weights(model.module)
    if asked.steps and data is not None:
        settings = TrainSettings(
            asked.steps, asked.batch_size, learning_rate=asked.lr, seed=asked.seed
        )
        result = train(
            model.module,
            data,
            settings,
            loss=taught_loss(reference, asked.alpha) if asked.alpha else cross_entropy,
            # The optimiser moves zeros too (momentum, decay): they are put back after each step.
            after_step=mask_weights,
            progress=every_tenth("prune: recovering", progress),
        )
        facts |= result.facts()
    made = save_model(model, folder)
    saved = load_model(folder)
    proven = _arrays(linear_weights(saved.inner, asked.exclude))
    facts |= check_zeros(asked.name, proven, asked.share, asked.n_of_m, before)
    feeds = (feeds for _, feeds in parity_feeds(source.signature, reference.examples))
    facts |= check_faithful(asked.name, torch_run(reference), torch_run(saved), feeds, -math.inf)
    facts |= {
        "weights_share": round(selection.share, 4),
        "layers_excluded": selection.excluded,
    }
    return Made("torch", made.signature, {**made.facts, **facts})


def magnitude_masks(weights: Mapping[str, np.ndarray], asked: Prune) -> dict[str, np.ndarray]:
    """The masks of all (out, in) weights by magnitude alone: True where one stays."""
    pattern = asked.n_of_m
    if asked.scope == "global" and pattern is None:
        return global_magnitude_kept(weights, asked.sparsity)
    return {name: magnitude_kept(w, asked.sparsity, pattern) for name, w in weights.items()}


def prune_layer(
    weight: np.ndarray, gram: np.ndarray, asked: Prune
) -> tuple[np.ndarray, np.ndarray]:
    """One (out, in) weight by a method that knows its inputs, by their (in, in) Gram matrix: the
    weight as it has become, and its mask."""
    if asked.method == "sparsegpt":
        return sparsegpt(weight, gram, asked.share, asked.n_of_m)
    kept = wanda_kept(weight, np.diag(gram), asked.share, asked.n_of_m)
    return weight * kept, kept


def error_facts(errors: Mapping[str, float]) -> dict[str, Any]:
    """Relative errors of layers' outputs, ||WX - W'X|| / ||WX||, as facts."""
    return {"reconstruction_error": {name: round(error, 4) for name, error in errors.items()}}


def taught_loss(whole: Model, alpha: float) -> Loss:
    """How far a module's logits are from those of the whole model, weighed by ``alpha``, and from
    the labels."""
    asked = Distill(alpha=alpha, hidden=0)

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            taught = forward(whole.module, batch.feeds)[0]
        logits = forward(module, batch.feeds)[0]
        return distillation_loss(logits, taught, torch.from_numpy(batch.labels), [], None, asked)

    return loss


def _calibrated(
    model: Model,
    selection: Weights,
    weights: Mapping[str, np.ndarray],
    asked: Prune,
    data: DataSource,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The masks of layers pruned one block after another, and what that cost their outputs."""
    examples = check_examples(asked.name, "examples", data, asked.calibration)
    chosen = magnitude_masks(weights, asked) if asked.method == "magnitude" else None
    errors: dict[str, float] = {}

    def prune(name: str, weight: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pruned, kept = (
            (weight * chosen[name], chosen[name])
            if chosen is not None
            else prune_layer(weight, gram, asked)
        )
        errors[name] = reconstruction_error(weight, pruned, gram)
        return pruned, kept

    masks = prune_in_order(asked.name, model, selection, lambda: data.calibration(examples), prune)
    return masks, {"calibration_examples": examples, **error_facts(errors)}


def _arrays(selection: Weights) -> dict[str, np.ndarray]:
    """The selected weights as float32 (out, in) copies."""
    return {name: selection.matrix(name).float().numpy().copy() for name in selection.linear}


def _check_taken(name: str, selection: Weights) -> None:
    if selection.missed:
        weight, reason = next(iter(selection.missed.items()))
        raise PassFailed(
            name,
            "weights matched",
            "every one of two axes in a linear layer, an embedding or a norm",
            f"{len(selection.missed)} elsewhere, first {weight!r}: {reason}; "
            "to leave it dense on purpose, exclude it by its name",
        )
    if not selection.linear:
        why = f" (all {len(n)} are excluded by name)" if (n := selection.excluded) else ""
        raise PassFailed(name, "weights matched", "at least one linear layer's", f"none{why}")
