"""Structured pruning: attention heads and feed-forward columns are cut out of a transformer.

What is left is a smaller transformer with matrices of its own: faster on every runtime, without any
kernel for zeros. Which heads and columns go is decided for each layer by importance
(``quantize/pruning/importance.py``); how many is the same in all layers, since the transformer has
one number of heads and one inner width. Then it learns to answer as the whole model did, by the
loss of ``quantize/distill.py``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compile.artifact import Artifact, Made
from compile.data import Batch, DataSource, with_empty_caches
from compile.errors import Unsupported
from compile.models.config import TransformerConfig
from compile.models.model import Model, load_model, save_model, transformer_model
from compile.models.transformer import Transformer
from compile.signature import Feeds
from compile.train_settings import TrainSettings
from compile.training import every_tenth, forward, train
from quantize.audit import PassFailed, check_examples, check_faithful
from quantize.distill import distillation_loss, torch_teacher
from quantize.passes import PruneStructured
from quantize.pruning.importance import Importance, measure_importance, readers

COMPARED = 8
"""Calibration examples on which the smaller module has to equal the masked one."""
EQUAL = 1e-5
"""Largest difference of their logits, relative to the largest logit: the same sums, without the
terms that are zero."""


@dataclass(frozen=True)
class Kept:
    """What stays in each layer, in rising order."""

    heads: list[Tensor]
    """Indices of key/value heads; the query heads that share them stay with them."""
    columns: list[Tensor]


def make_smaller(
    source: Artifact,
    asked: PruneStructured,
    folder: Path,
    data: DataSource,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on a torch artifact, recover, and audit the result.

    Facts: heads and columns before and after, the heads kept by layer, the share of importance
    kept by layer, parameters before and after, how far the cut module was from the masked one, the
    recovery's loss curve. Raises Unsupported for any but Assay's own transformer.
    """
    whole = load_model(source.folder)
    if not isinstance(whole.module, Transformer):
        raise Unsupported(
            f"pass {asked.name!r} cuts Assay's own transformer; {whole.name!r} is a "
            f"{type(whole.module).__name__}"
        )
    before = whole.module.config
    config = smaller_config(before, asked)
    progress(f"{asked.name}: measuring importance")
    importance = measure_importance(whole.module, data, asked.examples, asked.seed)
    kept = most_important(importance, config)
    small = cut(whole, config, kept)
    compared = check_examples(asked.name, "comparison with the masked module", data, COMPARED)
    facts: dict[str, Any] = {
        "cut_difference": _check_equal(asked.name, whole, small, kept, data, compared)
    }
    if asked.steps:
        facts |= _recover(whole, small, asked, data, progress)
    made = save_model(small, folder)
    saved = load_model(folder)
    facts |= check_faithful(
        asked.name, _logits(whole), _logits(saved), data.calibration(compared), -math.inf
    )
    facts |= {
        "heads_before": before.heads,
        "heads": config.heads,
        "kv_heads_before": before.kv_heads,
        "kv_heads": config.kv_heads,
        "ffn_before": before.ffn,
        "ffn": config.ffn,
        "kv_heads_kept": [indices.tolist() for indices in kept.heads],
        "heads_importance_kept": _shares(importance.heads, kept.heads),
        "ffn_importance_kept": _shares(importance.columns, kept.columns),
        "importance_examples": asked.examples,
        "parameters_before": sum(p.numel() for p in whole.module.parameters()),
    }
    return Made("torch", made.signature, {**made.facts, **facts})


def smaller_config(config: TransformerConfig, asked: PruneStructured) -> TransformerConfig:
    """The shape that is left: whole heads, and columns to a multiple, one at least of each.

    Raises PassFailed where rounding leaves the shape that it was.
    """
    kv_heads = max(1, round((1 - asked.heads) * config.kv_heads))
    # A tenth of all columns may be less than one multiple of them.
    multiple = min(asked.multiple, config.ffn)
    columns = max(multiple, round((1 - asked.ffn) * config.ffn / multiple) * multiple)
    ffn = config.ffn if asked.ffn == 0 else min(config.ffn, columns)
    if (kv_heads, ffn) == (config.kv_heads, config.ffn):
        raise PassFailed(
            asked.name,
            "effect",
            "fewer heads or columns",
            f"as many as before: {config.kv_heads} key/value heads and {config.ffn} columns, "
            f"rounded to a multiple of {multiple}",
        )
    return replace(
        config,
        heads=kv_heads * (config.heads // config.kv_heads),
        kv_heads=kv_heads,
        head_dim=config.head_size,
        ffn=ffn,
    )


def most_important(importance: Importance, config: TransformerConfig) -> Kept:
    """The heads and columns of largest importance of each layer, as many as ``config`` has."""

    def top(of: Tensor, count: int) -> list[Tensor]:
        order = of.sort(dim=1, descending=True, stable=True).indices
        return [row[:count].sort().values for row in order]

    return Kept(top(importance.heads, config.kv_heads), top(importance.columns, config.ffn))


def cut(whole: Model, config: TransformerConfig, kept: Kept) -> Model:
    """A smaller model with copies of what stays."""
    module = whole.module
    assert isinstance(module, Transformer)
    old = module.config
    small = transformer_model(whole.name, config, task=whole.task)
    state = dict(module.state_dict())
    for layer, (heads, columns) in enumerate(zip(kept.heads, kept.columns, strict=True)):
        keys = _rows_of_heads(heads, old.head_size)
        queries = _rows_of_heads(heads, old.head_size * (old.heads // old.kv_heads))
        attention, feed = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
        for name, rows in (
            (f"{attention}.query", queries),
            (f"{attention}.key", keys),
            (f"{attention}.value", keys),
            (f"{feed}.up", columns),
            (f"{feed}.gate", columns),
        ):
            for part in (f"{name}.weight", f"{name}.bias"):
                if part in state:
                    state[part] = state[part][rows]
        for name, read in ((f"{attention}.output", queries), (f"{feed}.down", columns)):
            state[f"{name}.weight"] = state[f"{name}.weight"][:, read]
    small.module.load_state_dict(state)
    return small


def masked(module: Transformer, kept: Kept) -> Transformer:
    """A copy of the whole module in which nothing reads what does not stay."""
    config, result = module.config, copy.deepcopy(module)
    with torch.no_grad():
        group = config.head_size * (config.heads // config.kv_heads)
        for matrices, heads, columns in zip(readers(result), kept.heads, kept.columns, strict=True):
            for weight, read in zip(matrices, (_rows_of_heads(heads, group), columns), strict=True):
                gone = torch.ones(weight.shape[1], dtype=torch.bool)
                gone[read] = False
                weight[:, gone] = 0
    return result


def _recover(
    whole: Model,
    small: Model,
    asked: PruneStructured,
    data: DataSource,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Train the smaller module on the whole one's logits and hidden states and on the labels."""
    teacher = torch_teacher(whole)

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        hidden: list[Tensor] = []
        feeds = with_empty_caches(batch.feeds, small.signature)
        logits = module(*(torch.from_numpy(value) for value in feeds.values()), hidden=hidden)[0]
        taught, states = teacher(batch.feeds)
        mask = batch.feeds.get("attention_mask")
        return distillation_loss(
            logits,
            taught,
            torch.from_numpy(batch.labels),
            # The embeddings too are trained, so that their states are compared as well.
            list(zip(hidden, states, strict=True)),
            None if mask is None else torch.from_numpy(mask),
            asked,
        )

    settings = TrainSettings(asked.steps, asked.batch_size, learning_rate=asked.lr, seed=asked.seed)
    told = every_tenth(f"{asked.name}: recovering", progress)
    return train(small.module, data, settings, loss=loss, progress=told).facts()


def _check_equal(
    name: str, whole: Model, small: Model, kept: Kept, data: DataSource, examples: int
) -> float:
    """The smaller module is the whole one with what was cut masked, on real inputs."""
    module = whole.module
    assert isinstance(module, Transformer)
    reference = replace(whole, module=masked(module, kept))
    difference = 0.0
    for feeds in data.calibration(examples):
        want, have = _first_output(reference, feeds), _first_output(small, feeds)
        difference = max(difference, float((want - have).abs().max() / want.abs().max()))
    if not difference <= EQUAL:
        raise PassFailed(
            name, "cut module against the masked one", f"equal to {EQUAL:g}", f"{difference:.3g}"
        )
    return difference


def _first_output(model: Model, feeds: Feeds) -> Tensor:
    with torch.inference_mode():
        return forward(model.module, with_empty_caches(feeds, model.signature))[0]


def _logits(model: Model) -> Callable[[Feeds], Feeds]:
    """The first output alone: caches have another shape where heads are gone."""
    return lambda feeds: {"logits": _first_output(model, feeds).numpy()}


def _rows_of_heads(heads: Tensor, size: int) -> Tensor:
    """Indices of ``size`` neighbours for each head."""
    return (heads[:, None] * size + torch.arange(size)).flatten()


def _shares(importance: Tensor, kept: list[Tensor]) -> list[float]:
    """Of each layer's importance, the part that stays."""
    return [
        round(float(layer[indices].sum() / layer.sum().clamp(min=1e-300)), 4)
        for layer, indices in zip(importance, kept, strict=True)
    ]
