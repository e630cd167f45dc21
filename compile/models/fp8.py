"""Linear layers that multiply 8-bit floats (E4M3), put into a module and read back.

    y = (a_q s_a) (w_q s_w)^T + b      a_q = a / s_a,  s_a = max |a| / 448 of each row of inputs

Weights have a scale per output; inputs are scaled and rounded in each call, row by row, which
``torch.compile`` fuses. The state of a layer is ``NAME.weight`` in ``float8_e4m3fn`` (out, in) and
``NAME.weight_scale`` in float32 (1, out), which is how a file is known to hold such layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compile.errors import Corrupted

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
MULTIPLE = 16
"""Of inputs and of outputs: torch's kernels take no others."""
FIRST_CAPABILITY = (8, 9)
"""Of a GPU that multiplies 8-bit floats (Ada, Hopper and later)."""


class Fp8Codes(NamedTuple):
    """A weight (out, in) as codes, and the scale of each output (1, out)."""

    codes: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Fp8Codes:
        """To nearest, the largest magnitude of each output being the format's largest."""
        scale = _scale(weight)
        return cls(_codes(weight, scale), scale.T.contiguous())

    def values(self) -> Tensor:
        """What the codes stand for, in float32."""
        return self.codes.float() * self.scale.T


class Fp8Linear(nn.Module):
    """``nn.Linear`` in 8-bit floats; sums are in float32, its result in the type of its input."""

    def __init__(self, packed: Fp8Codes, bias: nn.Parameter | None) -> None:
        super().__init__()
        # Buffers: nothing that asks for the type of the parameters means these.
        self.weight = nn.Buffer(packed.codes)
        self.weight_scale = nn.Buffer(packed.scale)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        rows = x.reshape(-1, x.shape[-1])
        scale = _scale(rows)
        result = self._product(_codes(rows, scale), scale).to(x.dtype)
        if self.bias is not None:
            result = result + self.bias
        return result.reshape(*x.shape[:-1], -1)

    def _product(self, codes: Tensor, scale: Tensor) -> Tensor:
        """(rows, out) in bfloat16: of scales by row CUDA makes no other."""
        if codes.device.type != "cuda":
            # torch 2.11 has no scales by row on a CPU. Codes and their products are exact in
            # float32.
            return (
                (codes.float() @ self.weight.float().t()) * scale * self.weight_scale
            ).bfloat16()
        return torch._scaled_mm(
            codes,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.weight_scale,
            out_dtype=torch.bfloat16,
        )


def take_fp8(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Fp8Codes]]:
    """A state without the codes of such layers, in bfloat16 what they stand for instead; and the
    codes by layer. Raises Corrupted where one has no scale or another shape of it."""
    dense, packed = dict(state), {}
    for key, codes in state.items():
        if codes.dtype != FORMAT:
            continue
        scale = dense.pop(f"{key}_scale", torch.empty(0))
        described = (scale.dtype, tuple(scale.shape)) == (torch.float32, (1, len(codes)))
        if not key.endswith(".weight") or not described:
            raise Corrupted(f"{key!r} is in 8-bit floats, and has no scale for each of its rows")
        found = packed[key.removesuffix(".weight")] = Fp8Codes(codes, scale)
        dense[key] = found.values().bfloat16()
    return dense, packed


def put_fp8(module: nn.Module, packed: Mapping[str, Fp8Codes]) -> None:
    """Put such layers in the place of the named linear ones, with their biases."""
    for name, codes in packed.items():
        bias = getattr(module.get_submodule(name), "bias", None)
        layer = Fp8Linear(codes, bias)
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, layer.eval())


def why_not_fp8(module: nn.Module, device: torch.device) -> str:
    """Why this module cannot run on that device for its 8-bit floats; empty where it can."""
    if not any(isinstance(layer, Fp8Linear) for layer in module.modules()):
        return ""
    needed = "8-bit floats need a GPU of compute capability {}.{} or later".format(
        *FIRST_CAPABILITY
    )
    if device.type != "cuda":
        return f"{needed}; a CPU multiplies what they stand for"
    found = torch.cuda.get_device_capability(device)
    return "" if found >= FIRST_CAPABILITY else "{}, this one has {}.{}".format(needed, *found)


def _scale(rows: Tensor) -> Tensor:
    """(rows, in) to float32 (rows, 1); of a row of zeros a number that divides."""
    largest = rows.abs().amax(-1, keepdim=True).float() / LARGEST
    return torch.where(largest > 0, largest, 1.0)


def _codes(rows: Tensor, scale: Tensor) -> Tensor:
    # Cast to it, what rounding takes beyond its range would be NaN.
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FORMAT)
