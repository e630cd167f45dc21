"""How a module is trained, as plain data that can be read and hashed without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from compile.errors import InputError


@dataclass(frozen=True)
class TrainSettings:
    """AdamW (Loshchilov & Hutter 2019) with warm-up, decay to zero and gradient clipping.

    Raises InputError for a value outside of its range.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 5e-4
    """Its peak, reached at the end of the warm-up."""
    warmup: float = 0.1
    """Share of the steps."""
    decay: Literal["linear", "cosine"] = "linear"
    weight_decay: float = 0.01
    """Of matrices; biases and norms are not decayed."""
    clip: float = 1.0
    """Largest Euclidean norm of all gradients together."""
    seed: int = 0
    """Of the order of the data, of masking and of dropout."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, float("inf")),
            ("batch_size", 1, float("inf")),
            ("learning_rate", 1e-9, 1.0),
            ("warmup", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("clip", 1e-9, float("inf")),
            ("seed", 0, float("inf")),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"training: {name} = {getattr(self, name)} is not between {low:g} and {high:g}"
                )
        if self.decay not in ("linear", "cosine"):
            raise InputError(f"training: decay = {self.decay!r} is neither linear nor cosine")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainSettings:
        return cls(**data)
