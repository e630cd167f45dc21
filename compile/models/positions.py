"""Where a token stands: sinusoidal encodings and rotary embeddings, and the positions themselves.

Nothing here keeps a table: every formula is evaluated for the positions at hand in float32 and
cast afterwards, so that half-precision weights do not cost the angles their precision.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_positions(attention_mask: Tensor, sequence: int) -> Tensor:
    """Positions of the last ``sequence`` tokens, int64 ``(batch, sequence)``.

    A token's position is the number of unmasked tokens before it, so that padding on the left of
    a batch (as generation uses it) does not move the text. ``attention_mask``: ``(batch, total)``.
    """
    counted = attention_mask.cumsum(dim=1) - 1
    return counted.clamp(min=0).narrow(1, attention_mask.shape[1] - sequence, sequence)


def sinusoidal(positions: Tensor, width: int) -> Tensor:
    """Fixed encodings ``(*positions.shape, width)``, float32 (Vaswani et al. 2017, section 3.5).

    PE(p, 2i) = sin(p / 10000^(2i/width)), PE(p, 2i+1) = cos of the same angle.
    """
    angles = _angles(positions, width, 10_000.0)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def rotary(positions: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines for ``rotate``, each ``(batch, 1, sequence, head_size)``, float32."""
    angles = _angles(positions, head_size, theta)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of ``(batch, heads, sequence, head_size)`` (Su et al. 2021).

    Element i is paired with element i + head_size/2, the layout of LLaMA's released weights.
    """
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _angles(positions: Tensor, size: int, theta: float) -> Tensor:
    """p / theta^(2i/size), ``(*positions.shape, size / 2)``, float32."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    return positions.float().unsqueeze(-1) * (1.0 / theta**exponents)
