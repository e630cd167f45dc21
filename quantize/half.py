"""FP16 and BF16 of torch modules: every floating weight and all arithmetic in 16 bits.

FP16 has 11 significant bits and ends at 65504; BF16 has 8 and float32's range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from compile.artifact import Artifact, Made
from compile.errors import Unsupported
from compile.models.model import Model, load_model, save_model
from compile.parity import parity_feeds
from compile.signature import Feeds
from quantize.audit import PassFailed, check_faithful, check_smaller, folder_bytes
from quantize.passes import Bf16, Fp16


def make_half(source: Artifact, asked: Fp16 | Bf16, folder: Path) -> Made:
    """Carry out the pass on a torch artifact and audit the result.

    Facts: bytes and signal-to-noise ratio, ``overflowed`` weights (refused if any).
    """
    if isinstance(asked, Fp16) and asked.exclude:
        raise Unsupported("pass 'fp16' can exclude nodes of ONNX graphs only, not of torch modules")
    dtype = torch.float16 if isinstance(asked, Fp16) else torch.bfloat16
    reference, model = load_model(source.folder), load_model(source.folder)
    before = _weight_bytes(model)
    largest = max(
        (p.detach().abs().max().item() for p in model.module.parameters() if p.numel()), default=0
    )
    if largest > torch.finfo(dtype).max:
        raise PassFailed(
            asked.name, "range of weights", f"up to {torch.finfo(dtype).max:g}", f"{largest:g}"
        )
    model = model.to(dtype)
    made = save_model(model, folder)
    files = (source.bytes, folder_bytes(folder))
    facts = check_smaller(asked.name, (before, _weight_bytes(model)), files, 0.5)
    facts |= check_faithful(
        asked.name,
        torch_run(reference),
        torch_run(model),
        (feeds for _, feeds in parity_feeds(source.signature, reference.examples)),
        asked.min_snr_db,
    )
    return Made("torch", made.signature, {**made.facts, **facts})


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
