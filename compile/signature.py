"""What a model takes and gives: named tensors with symbolic axes, and feeds made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from compile.errors import InputError

Feeds = dict[str, np.ndarray]
"""One call's inputs by name, each a C-contiguous array."""


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output.

    ``shape`` holds an integer where the axis is fixed and a name where it may vary. The names
    that every part of Assay understands are ``batch``, ``sequence`` (tokens fed in this call),
    ``past`` (tokens already in the KV cache) and ``total`` (= past + sequence).
    """

    name: str
    dtype: str
    """NumPy name: ``int64``, ``float32``, ``float16``, ``bool``."""
    shape: tuple[int | str, ...]
    high: int | None = None
    """Exclusive upper bound of an integer input (a vocabulary size)."""
    fill: str = "random"
    """How a synthetic input is made: ``random`` (uniform integers, standard normal floats),
    ``ones`` (a mask without padding), ``zeros`` or ``positions`` (along the last axis, counted
    on from the ``past``)."""


@dataclass(frozen=True)
class Signature:
    """All inputs and outputs of a model, in the order in which its ``forward`` takes them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_sequence: int | None = None
    """Longest ``total`` that the positions allow; ``None`` where nothing limits it."""

    @property
    def axes(self) -> frozenset[str]:
        """Names of the axes that may vary."""
        return frozenset(a for spec in self.inputs for a in spec.shape if isinstance(a, str))

    def feeds(self, sizes: Mapping[str, int], seed: int = 0) -> Feeds:
        """Synthetic inputs of the given sizes, the same for the same seed.

        ``total`` is derived from ``past`` (0 unless given) and ``sequence``. Raises InputError
        for an axis without a size, a negative one, or a total beyond ``max_sequence``.
        """
        sizes = dict(sizes)
        sizes.setdefault("past", 0)
        if "sequence" in sizes:
            sizes["total"] = sizes["past"] + sizes["sequence"]
            if self.max_sequence is not None and sizes["total"] > self.max_sequence:
                raise InputError(
                    f"{sizes['total']} tokens are more than the model's maximum of "
                    f"{self.max_sequence}; choose a shorter sequence"
                )
        random = np.random.default_rng(seed)
        return {spec.name: _fill(spec, sizes, random) for spec in self.inputs}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        def specs(items: Any) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(**{**i, "shape": tuple(i["shape"])}) for i in items)

        return cls(specs(data["inputs"]), specs(data["outputs"]), data.get("max_sequence"))


def _fill(spec: TensorSpec, sizes: Mapping[str, int], random: np.random.Generator) -> np.ndarray:
    shape = []
    for axis in spec.shape:
        size = axis if isinstance(axis, int) else sizes.get(axis)
        if size is None:
            raise InputError(f"input {spec.name!r} has an axis {axis!r} that was given no size")
        if size < 0 or (size == 0 and axis != "past"):
            raise InputError(f"axis {axis!r} of input {spec.name!r} cannot be {size}")
        shape.append(size)
    dtype = np.dtype(spec.dtype)
    if spec.fill == "ones":
        return np.ones(shape, dtype)
    if spec.fill == "zeros":
        return np.zeros(shape, dtype)
    if spec.fill == "positions":
        past = sizes.get("past", 0)
        return np.tile(np.arange(past, past + shape[-1], dtype=dtype), (*shape[:-1], 1))
    if dtype.kind in "iu":
        return random.integers(0, spec.high or 2, shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)
