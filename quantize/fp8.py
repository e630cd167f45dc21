"""FP8 of torch modules: linear layers in 8-bit floats (E4M3), all else in bfloat16.

Micikevicius et al. 2022, "FP8 formats for deep learning": four bits of exponent and three of
mantissa up to 448, scaled so that the largest magnitude is met; here by output of a weight and by
row of its inputs (``compile/models/fp8.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from compile.artifact import Artifact, Made
from compile.models.fp8 import MULTIPLE, Fp8Codes, put_fp8
from compile.models.model import load_model, save_model
from compile.parity import parity_feeds
from quantize.audit import PassFailed, check_exclude, check_faithful, check_smaller, folder_bytes
from quantize.half import check_range, torch_run
from quantize.passes import Fp8
from quantize.weights import Weights, linear_weights


def make_fp8(source: Artifact, asked: Fp8, folder: Path) -> Made:
    """Carry out the pass on a torch artifact and audit the result, by torch's emulation on a CPU.

    Facts: ``layers`` taken, ``layers_left`` in bfloat16 with the reasons, ``layers_excluded``,
    ``weights_share``, bytes, signal-to-noise ratio, and of bfloat16 ``clamped`` numbers and
    ``underflowed`` weights. Raises PassFailed where no layer can be taken.
    """
    reference, model = load_model(source.folder), load_model(source.folder)
    selection = linear_weights(model.inner, asked.exclude)
    check_exclude(asked.name, asked.exclude, selection.names)
    left = {name: why for name in selection.linear if (why := _why_not(selection, name))}
    taken = [name for name in selection.linear if name not in left]
    if not taken:
        wanted = f"a linear layer with multiples of {MULTIPLE} inputs and outputs"
        why = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:3])
        raise PassFailed(asked.name, "layers matched", wanted, why or "none")
    packed = {name: Fp8Codes.of(selection.linear[name].detach()) for name in taken}
    before = _bytes(model.inner)
    count = sum(parameter.numel() for parameter in model.module.parameters())
    numbers = sum(codes.codes.numel() for codes in packed.values())
    facts: dict[str, Any] = check_range(asked.name, model.inner, torch.bfloat16)
    model = model.to(torch.bfloat16)
    put_fp8(model.inner, packed)
    made = save_model(model, folder, {"parameters": count})
    facts |= {
        "layers": len(taken),
        "layers_left": left | selection.missed,
        "layers_excluded": selection.excluded,
        "weights_share": round(numbers / max(1, count), 4),
    }
    files = (source.bytes, folder_bytes(folder))
    # A byte a weight, four an output, and two of all else; and a twentieth more.
    most = 1.05 * (0.5 - 0.25 * numbers / max(1, count)) + 0.01
    facts |= check_smaller(asked.name, (before, _bytes(model.inner)), files, most)
    facts |= check_faithful(
        asked.name,
        torch_run(reference),
        torch_run(load_model(folder)),
        (feeds for _, feeds in parity_feeds(source.signature, reference.examples)),
        asked.min_snr_db,
    )
    return Made("torch", made.signature, {**made.facts, **facts})


def _why_not(selection: Weights, name: str) -> str:
    """Why a linear layer's weight stays in bfloat16; empty where it need not."""
    layers = selection.layers[name]
    if len(layers) > 1:
        return "several layers share it"
    if type(layers[0]) is not nn.Linear:
        return f"it is multiplied by {type(layers[0]).__name__}"
    outputs, inputs = selection.linear[name].shape
    if outputs % MULTIPLE or inputs % MULTIPLE:
        return f"{inputs} inputs and {outputs} outputs are no multiples of {MULTIPLE}"
    return ""


def _bytes(module: nn.Module) -> int:
    """Of all that a module keeps, shared tensors once."""
    kept = {tensor.data_ptr(): tensor.nbytes for tensor in module.state_dict().values()}
    return sum(kept.values())
