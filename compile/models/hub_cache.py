"""The key/value cache of a transformers model as plain tensors, where it can be had so."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from compile.models.adapter import Adapter
from compile.models.positions import token_positions


class CausalAdapter(Adapter):
    """A causal language model, its cache as tensors in and out, layer by layer.

    Called without past keys and values it runs without a cache and returns the logits alone.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.positions = "position_ids" in inspect.signature(inner.forward).parameters

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        cache = transformers.DynamicCache()
        for layer, (key, value) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(key, value, layer)
        # Left padding moves no text only if the positions are counted by the mask.
        positions = token_positions(attention_mask, input_ids.shape[1])
        returned = self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache if past else None,
            use_cache=bool(past),
            **({"position_ids": positions} if self.positions else {}),
        )
        layers = returned.past_key_values.layers if past else ()
        return (returned.logits, *(part for layer in layers for part in (layer.keys, layer.values)))


def cache_shape(module: Any) -> tuple[int, int, int] | None:
    """(layers, kv_heads, head_size) of a plain cache that decodes soundly, otherwise None.

    Sound: the last tokens of a text, fed after the cache of the first ones, get the logits that
    they get when the whole text is fed at once.
    """
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, module.config.vocab_size, (2, 6), generator=random)
    mask = torch.ones_like(tokens)
    with torch.inference_mode():
        whole = module(input_ids=tokens, attention_mask=mask, use_cache=True)
        layers = getattr(getattr(whole, "past_key_values", None), "layers", ())
        # A subclass of DynamicLayer keeps a window or something else than all tokens.
        if not layers or {type(layer).__name__ for layer in layers} != {"DynamicLayer"}:
            return None
        shapes = {part.shape for layer in layers for part in (layer.keys, layer.values)}
        if len(shapes) != 1:
            return None
        _, kv_heads, length, head_size = shapes.pop()
        if length != tokens.shape[1]:
            return None
        adapter = CausalAdapter(module)
        past = [torch.empty(2, kv_heads, 0, head_size)] * (2 * len(layers))
        _, *past = adapter(tokens[:, :4], mask[:, :4], *past)
        logits, *_ = adapter(tokens[:, 4:], mask, *past)
    scale = max(1.0, whole.logits.abs().max().item())
    sound = (logits - whole.logits[:, 4:]).abs().max().item() <= 1e-4 * scale
    return (len(layers), kv_heads, head_size) if sound else None
