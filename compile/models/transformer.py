"""The one configurable transformer: BERT, GPT-2 and LLaMA are settings of it.

    Vaswani et al. 2017 (the architecture), Devlin et al. 2018 (BERT), Radford et al. 2019
    (GPT-2), Touvron et al. 2023 (LLaMA), Ainslie et al. 2023 (grouped queries).

Given their weights it computes what the implementations in ``transformers`` compute, to rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from compile.models.attention import Attention, KeyValue, Rotation, causal_mask, padding_mask
from compile.models.config import TransformerConfig
from compile.models.positions import rotary, sinusoidal, token_positions


class Transformer(nn.Module):
    """An encoder or a decoder, called with the tensors of ``config.signature()`` in their order.

    Parts that compression works on: ``layers`` (a ModuleList of ``Block``), and every
    ``nn.Linear`` inside. The key/value cache is explicit: a decoder takes one key and one value
    per layer and returns them grown by this call's tokens.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = _norm(config) if config.norm_first else None
        self.pooler = Pooler(config) if config.head == "classification" else None
        self.head = _head(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *rest: Tensor,
        hidden: list[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """Logits and, from a decoder, the present keys and values of each layer.

        ``rest`` is ``token_type_ids`` for an encoder with segments, and past key, past value of
        every layer for a decoder. Where a list is given as ``hidden``, the embeddings and each
        layer's output, ``(batch, sequence, width)``, are appended to it.
        """
        config, sequence = self.config, input_ids.shape[1]
        decoder = config.kind == "decoder"
        if decoder:
            positions = token_positions(attention_mask, sequence)
            mask = causal_mask(attention_mask, sequence)
        else:
            positions = torch.arange(sequence, device=input_ids.device).unsqueeze(0)
            mask = padding_mask(attention_mask)
        x = self.embedding(input_ids, positions, rest[0] if config.segments else None)
        rotation = None
        if config.position == "rotary":
            cos, sin = rotary(positions, config.head_size, config.rope_theta)
            rotation = cos.to(x.dtype), sin.to(x.dtype)
        presents: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if hidden is not None:
                hidden.append(x)
            past = (rest[2 * index], rest[2 * index + 1]) if decoder else None
            x, present = layer(x, mask, rotation, past)
            presents.extend(present)
        if hidden is not None:
            hidden.append(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        if self.pooler is not None:
            x = self.pooler(x)
        logits = self.head(x, self.embedding.tokens.weight)
        return (logits, *presents) if decoder else (logits,)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Normal weights with standard deviation ``initial_std``, zero biases, unit norms.

        What is added to the residual stream is scaled by 1 / sqrt(2 layers) (Radford et al.
        2019, section 2.3). ``initial_locality`` sets query and key biases. The same seed gives
        the same weights.
        """
        random = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif "norm" in name:
                weight.fill_(1.0)
            else:
                residual = name.endswith(("attention.output.weight", "down.weight"))
                scale = 1 / math.sqrt(2 * self.config.layers) if residual else 1.0
                weight.normal_(0.0, self.config.initial_std * scale, generator=random)
        if self.config.initial_locality:
            for module in self.modules():
                if isinstance(module, Attention):
                    module.look_near(self.config.initial_locality, random)


class Embedding(nn.Module):
    """Tokens, their absolute positions and their segments, summed."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.kind = config.position
        self.width = config.width
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = (
            nn.Embedding(config.max_sequence, config.width)
            if config.position == "learned"
            else None
        )
        self.segments = nn.Embedding(config.segments, config.width) if config.segments else None
        self.norm = None if config.norm_first else _norm(config)

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
        x = self.tokens(tokens)
        if self.segments is not None:
            x = x + self.segments(segments)
        if self.positions is not None:
            x = x + self.positions(positions)
        elif self.kind == "sinusoidal":
            x = x + sinusoidal(positions, self.width).to(x.dtype)
        return x if self.norm is None else self.norm(x)


class Block(nn.Module):
    """One layer: attention and feed-forward, each with its residual connection and norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = Attention(config)
        self.attention_norm = _norm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = _norm(config)

    def forward(
        self, x: Tensor, mask: Tensor, rotation: Rotation | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        if self.norm_first:
            mixed, present = self.attention(self.attention_norm(x), mask, rotation, past)
            x = x + mixed
            return x + self.feed_forward(self.feed_forward_norm(x)), present
        mixed, present = self.attention(x, mask, rotation, past)
        x = self.attention_norm(x + mixed)
        return self.feed_forward_norm(x + self.feed_forward(x)), present


class FeedForward(nn.Module):
    """down(gelu(up(x))), or down(silu(gate(x)) * up(x)) for SwiGLU (Shazeer 2020)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        gated = config.activation == "swiglu"
        self.approximate = "tanh" if config.activation == "gelu-tanh" else "none"
        self.gate = nn.Linear(config.width, config.ffn, bias=config.bias) if gated else None
        self.up = nn.Linear(config.width, config.ffn, bias=config.bias)
        self.down = nn.Linear(config.ffn, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(functional.silu(self.gate(x)) * self.up(x))
        return self.down(functional.gelu(self.up(x), approximate=self.approximate))


class Pooler(nn.Module):
    """tanh(dense([CLS])): ``(batch, sequence, width)`` -> ``(batch, width)``."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x[:, 0]))


class ClassificationHead(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.dense(x)


class MaskedHead(nn.Module):
    """BERT's: dense, GELU and norm, then the vocabulary with a bias."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = _norm(config)
        self.vocabulary = Vocabulary(config)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.vocabulary(self.norm(functional.gelu(self.dense(x))), tokens) + self.bias


class Vocabulary(nn.Module):
    """Scores of all tokens, from the token embedding itself where the head is tied to it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = (
            None if config.tied_head else nn.Linear(config.width, config.vocabulary, bias=False)
        )

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        return functional.linear(x, tokens) if self.dense is None else self.dense(x)


def _head(config: TransformerConfig) -> nn.Module:
    if config.head == "classification":
        return ClassificationHead(config)
    return MaskedHead(config) if config.head == "masked-lm" else Vocabulary(config)


def _norm(config: TransformerConfig) -> nn.Module:
    kind = nn.LayerNorm if config.norm == "layernorm" else nn.RMSNorm
    return kind(config.width, eps=config.eps)
