"""Multi-head, grouped-query and multi-query attention, its masks, and its key/value cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from compile.models.config import TransformerConfig
from compile.models.positions import rotate

Rotation = tuple[Tensor, Tensor]
KeyValue = tuple[Tensor, Tensor]
"""One layer's keys and values, each ``(batch, kv_heads, tokens, head_size)``."""


def padding_mask(attention_mask: Tensor) -> Tensor:
    """Which keys every query may see: bool ``(batch, 1, sequence, sequence)``.

    The query axis is written out, since ONNX Runtime's Attention does not broadcast it.
    """
    return attention_mask.bool()[:, None, None, :].expand(-1, -1, attention_mask.shape[1], -1)


def causal_mask(attention_mask: Tensor, sequence: int) -> Tensor:
    """Which keys each query may see: bool ``(batch, 1, sequence, total)``.

    Query i is token total - sequence + i (lower-right alignment), and sees itself and what was
    before it, padding aside. A padded query sees itself nevertheless: a row without any key has
    no softmax, and its NaN would reach the text through the next layer's values.
    """
    total = attention_mask.shape[1]
    keys = torch.arange(total, device=attention_mask.device)
    queries = torch.arange(sequence, device=attention_mask.device)[:, None] + (total - sequence)
    visible = attention_mask.bool()[:, None, None, :] & (keys < queries)
    return visible | (keys == queries)


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(head_size) + mask) V, with projections in and out.

    Query, key and value are three Linear layers, so that each can be pruned or quantized alone.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_size = config.head_size
        mixed_width = config.heads * config.head_size
        kv_width = config.kv_heads * config.head_size
        self.query = nn.Linear(config.width, mixed_width, bias=config.bias)
        self.key = nn.Linear(config.width, kv_width, bias=config.bias)
        self.value = nn.Linear(config.width, kv_width, bias=config.bias)
        self.output = nn.Linear(mixed_width, config.width, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        rotation: Rotation | None = None,
        past: KeyValue | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """``(batch, sequence, width)`` -> the same, and the keys and values with ``past`` before.

        ``mask`` is bool and broadcasts to ``(batch, heads, sequence, total)``: True may be seen.
        """
        query = self._split(self.query(x), self.heads)
        key = self._split(self.key(x), self.kv_heads)
        value = self._split(self.value(x), self.kv_heads)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if past is not None:
            key = torch.cat((past[0], key), dim=2)
            value = torch.cat((past[1], value), dim=2)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=self.heads != self.kv_heads
        )
        return self.output(mixed.transpose(1, 2).flatten(2)), (key, value)

    @torch.no_grad()
    def look_near(self, std: float, random: torch.Generator) -> None:
        """Give query and key biases that score a key by its distance, where positions are rotary.

        Rotated by their positions, equal vectors b have the product sum_i |b_i|^2 cos(d w_i) at
        distance d, with w_i the frequency of pair i: largest at 0 and falling.
        """
        near = torch.empty(self.kv_heads, self.head_size).normal_(0.0, std, generator=random)
        self.key.bias.copy_(near.flatten())
        shared = near.repeat_interleave(self.heads // self.kv_heads, 0)
        self.query.bias.copy_(shared.flatten())

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """``(batch, sequence, heads * head_size)`` -> ``(batch, heads, sequence, head_size)``."""
        return x.unflatten(-1, (heads, self.head_size)).transpose(1, 2)
