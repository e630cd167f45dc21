"""FP16 and BF16 of torch modules: every floating weight and all arithmetic in 16 bits.

FP16 has 11 significant bits and ends at 65504; BF16 has 8 and float32's range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compile.artifact import Artifact, Made
from compile.errors import Unsupported
from compile.models.model import Model, load_model, save_model
from compile.parity import parity_feeds
from compile.signature import Feeds
from quantize.audit import PassFailed, check_faithful, check_smaller, folder_bytes
from quantize.passes import Bf16, Fp16


def make_half(source: Artifact, asked: Fp16 | Bf16, folder: Path) -> Made:
    """Carry out the pass on a torch artifact and audit the result.

    Facts: ``clamped`` numbers, ``underflowed`` weights, bytes and signal-to-noise ratio.
    """
    if isinstance(asked, Fp16) and (asked.exclude or asked.search):
        raise Unsupported("pass 'fp16' can exclude nodes of ONNX graphs only, not of torch modules")
    dtype = torch.float16 if isinstance(asked, Fp16) else torch.bfloat16
    reference, model = load_model(source.folder), load_model(source.folder)
    before = _weight_bytes(model)
    facts = check_range(asked.name, model.inner, dtype)
    model = model.to(dtype)
    made = save_model(model, folder)
    files = (source.bytes, folder_bytes(folder))
    facts |= check_smaller(asked.name, (before, _weight_bytes(model)), files, 0.5)
    facts |= check_faithful(
        asked.name,
        torch_run(reference),
        torch_run(load_model(folder)),
        (feeds for _, feeds in parity_feeds(source.signature, reference.examples)),
        asked.min_snr_db,
    )
    return Made("torch", made.signature, {**made.facts, **facts})


def check_range(name: str, module: nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    """Floating parameters and the buffers that are kept with them fit into ``dtype``.

    A single number beyond its range is clamped to it, in place, and reported; a tensor with such a
    number is refused by name, since clamping it would change the model. Infinity itself (a mask's)
    is in the range of either type. Raises PassFailed.
    """
    most = torch.finfo(dtype).max
    kept = module.state_dict().keys()
    way_out = "; bf16 has the range of float32" if dtype is torch.float16 else ""
    clamped, underflowed = {}, 0
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if key not in kept or not tensor.is_floating_point():
            continue
        values = tensor.detach()
        magnitudes = values.abs()
        beyond = magnitudes.isfinite() & (magnitudes > most)
        if beyond.any() and values.numel() > 1:
            raise PassFailed(
                name,
                f"range of {key!r}",
                f"magnitudes up to {most:g}",
                f"{magnitudes[beyond].max().item():g}{way_out}",
            )
        if beyond.any():
            clamped[key] = str(values.item())
            values.clamp_(-most, most)
        underflowed += int(((values.to(dtype) == 0) & (values != 0)).sum())
    return {"clamped": clamped, "underflowed": underflowed}


def torch_run(model: Model) -> Callable[[Feeds], Feeds]:
    """The model as a function of float32 arrays, whatever its own type."""
    dtype = next((p.dtype for p in model.module.parameters()), torch.float32)

    def run(feeds: Feeds) -> Feeds:
        tensors = (torch.from_numpy(feeds[spec.name]) for spec in model.signature.inputs)
        with torch.inference_mode():
            outputs = model.module(*(t.to(dtype) if t.is_floating_point() else t for t in tensors))
        names = (spec.name for spec in model.signature.outputs)
        return {name: tensor.float().numpy() for name, tensor in zip(names, outputs, strict=True)}

    return run


def _weight_bytes(model: Model) -> int:
    """Bytes of the floating parameters, shared ones once."""
    return sum(
        math.prod(p.shape) * p.element_size()
        for p in model.module.parameters()
        if p.is_floating_point()
    )
