"""Magnitude pruning: the smallest weights become zero and the rest is trained to make up for it.

Unstructured (Han et al. 2015, "Learning both weights and connections"). Zeros are stored like
any other number, so the file shrinks only when it is compressed and a runtime gains only with
sparse kernels; what the pass shows is how much of the model its accuracy needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from compile.artifact import Artifact, Made
from compile.data import DataSource
from compile.models.model import load_model, save_model
from compile.parity import parity_feeds
from compile.train_settings import TrainSettings
from compile.training import train
from quantize.audit import PassFailed, check_exclude, check_faithful
from quantize.half import torch_run
from quantize.passes import Prune
from quantize.weights import Weights, linear_weights

CLOSE = 0.01
"""How far the share of zeros may be from the one asked for (equal magnitudes fall together)."""


def make_pruned(
    source: Artifact,
    asked: Prune,
    folder: Path,
    data: DataSource | None,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on a torch artifact, recover, and audit the result.

    Facts: ``sparsity`` of all weights taken and ``sparsity_by_layer``; ``weights_share``, what
    those are of all weights of two axes, embeddings included; the recovery's loss curve.
    """
    reference, model = load_model(source.folder), load_model(source.folder)
    selection = linear_weights(model.inner, asked.exclude)
    check_exclude(asked.name, asked.exclude, selection.names)
    _check_taken(asked.name, selection)
    weights = selection.linear
    masks = magnitude_masks(weights, asked.sparsity, asked.scope)

    def mask_weights(module: nn.Module) -> None:
        for name, weight in weights.items():
            weight.mul_(masks[name])

    with torch.no_grad():
        mask_weights(model.module)
    facts = {}
    if asked.steps and data is not None:
        settings = TrainSettings(
            asked.steps, asked.batch_size, learning_rate=asked.lr, seed=asked.seed
        )
        result = train(
            model.module,
            data,
            settings,
            # The optimiser moves zeros too (momentum, decay): they are put back after each step.
            after_step=mask_weights,
            progress=every_tenth("prune: recovering", progress),
        )
        facts = result.facts()
    made = save_model(model, folder)
    by_layer = {name: sparsity_of([weight]) for name, weight in weights.items()}
    total = sparsity_of(list(weights.values()))
    if abs(total - asked.sparsity) > CLOSE:
        raise PassFailed(
            asked.name, "share of zeros", f"{asked.sparsity:g} within {CLOSE}", f"{total:.4f}"
        )
    feeds = (feeds for _, feeds in parity_feeds(source.signature, reference.examples))
    facts |= check_faithful(
        asked.name, torch_run(reference), torch_run(load_model(folder)), feeds, -math.inf
    )
    return Made(
        "torch",
        made.signature,
        {
            **made.facts,
            **facts,
            "sparsity": round(total, 4),
            "weights_share": round(selection.share, 4),
            "layers_excluded": selection.excluded,
            "sparsity_by_layer": {name: round(share, 4) for name, share in by_layer.items()},
        },
    )


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


def magnitude_masks(weights: dict[str, Tensor], sparsity: float, scope: str) -> dict[str, Tensor]:
    """1 where a weight stays, 0 for the ``sparsity`` share of smallest magnitude.

    ``global`` compares the weights of all layers with one another, ``layer`` those of each.
    """
    magnitudes = {name: weight.detach().abs() for name, weight in weights.items()}
    if scope == "global":
        everything = torch.cat([m.flatten() for m in magnitudes.values()])
        thresholds = dict.fromkeys(magnitudes, _quantile(everything, sparsity))
    else:
        thresholds = {name: _quantile(m.flatten(), sparsity) for name, m in magnitudes.items()}
    return {name: (m > thresholds[name]).to(m.dtype) for name, m in magnitudes.items()}


def sparsity_of(weights: list[Tensor]) -> float:
    """Share of the weights that are exactly zero."""
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)


def every_tenth(what: str, progress: Callable[[str], None]) -> Callable[[int, int, float], None]:
    """Training's progress as lines, one for every tenth of the steps."""

    def report(step: int, steps: int, loss: float) -> None:
        if step == steps or step % max(1, steps // 10) == 0:
            progress(f"{what}, step {step} of {steps}, loss {loss:.3f}")

    return report


def _quantile(values: Tensor, share: float) -> float:
    """The magnitude at or below which ``share`` of the values lie; -1 keeps them all."""
    count = round(share * values.numel())
    return float(values.kthvalue(count).values) if count else -1.0
