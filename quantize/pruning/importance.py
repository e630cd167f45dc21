"""How much the loss would notice if an attention head or a feed-forward column were gone.

Closing a gate on what a head or a column hands on changes the loss L, to first order, by the
derivative to that gate (Michel, Levy & Neubig 2019, "Are sixteen heads really better than one?";
Molchanov et al. 2019, "Importance estimation for neural network pruning"). With W the matrix that
reads it and C its columns of W,

    importance = mean over examples of | sum over C of W * dL/dW |

which is that derivative: the output is linear in the gate and in C alike.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from compile.data import DataSource
from compile.models.transformer import Block, Transformer
from compile.training import cross_entropy


@dataclass(frozen=True)
class Importance:
    """Of each layer's parts; larger is missed more."""

    heads: Tensor
    """float64 (layers, key/value heads): each with the query heads that share it."""
    columns: Tensor
    """float64 (layers, ffn)."""


def readers(module: Transformer) -> list[tuple[Tensor, Tensor]]:
    """Of each layer the matrices that read its heads and its columns."""
    blocks = [layer for layer in module.layers if isinstance(layer, Block)]
    return [(block.attention.output.weight, block.feed_forward.down.weight) for block in blocks]


def measure_importance(
    module: Transformer, data: DataSource, examples: int, seed: int
) -> Importance:
    """On that many labelled training examples, one at a time."""
    config = module.config
    matrices = [matrix for pair in readers(module) for matrix in pair]
    heads = torch.zeros(config.layers, config.kv_heads, dtype=torch.float64)
    columns = torch.zeros(config.layers, config.ffn, dtype=torch.float64)
    for batch in itertools.islice(data.training(1, seed), examples):
        gradients = torch.autograd.grad(cross_entropy(module, batch), matrices)
        moved = [(w.detach() * g).double().sum(0) for w, g in zip(matrices, gradients, strict=True)]
        by_head = torch.stack(moved[::2]).unflatten(1, (config.kv_heads, -1)).sum(2)
        heads += by_head.abs()
        columns += torch.stack(moved[1::2]).abs()
    return Importance(heads / examples, columns / examples)
