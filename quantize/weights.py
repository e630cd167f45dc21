"""The matrices of a torch module: which of them are linear layers', and which only look like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from quantize.exclude import matching

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.RMSNorm)
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Of ``nn.MultiheadAttention``, whose last projection is an ``nn.Linear``."""
CONV1D = "transformers.pytorch_utils.Conv1D"
"""The linear layer of GPT-2, its weight transposed."""


@dataclass
class Weights:
    """A module's floating parameters of two axes and more, each once, but for those of norms."""

    linear: dict[str, Tensor] = field(default_factory=dict)
    """By the layer's name, or the parameter's where it is not called ``weight``."""
    layers: dict[str, list[nn.Module]] = field(default_factory=dict)
    """Of each of ``linear``, the layers that multiply by it."""
    excluded: dict[str, str] = field(default_factory=dict)
    """Left alone as asked: name -> the reason."""
    missed: dict[str, str] = field(default_factory=dict)
    """Those of other modules, which may well multiply by them: name -> shape and module."""
    names: list[str] = field(default_factory=list)
    """All that ``exclude`` may name: the modules' and the parameters' own names."""
    values: int = 0
    """Numbers in all of them, embeddings included."""

    def matrix(self, name: str) -> Tensor:
        """One of ``linear`` as (out, in): the parameter itself, or a view of it."""
        weight = self.linear[name].detach()
        return weight.T if is_transposed(self.layers[name][0]) else weight

    @property
    def share(self) -> float:
        """Of all their numbers, those that are linear layers'."""
        return sum(weight.numel() for weight in self.linear.values()) / max(1, self.values)


def linear_weights(module: nn.Module, exclude: Sequence[str]) -> Weights:
    """The weights of all linear layers, and whatever else might be one's.

    Linear are ``nn.Linear``, ``nn.MultiheadAttention`` and the ``Conv1D`` of transformers.
    Embeddings are not, nor is a layer that shares an embedding's weight. An axis of one element
    does not count: such a parameter is a vector.
    """
    embedded = {id(m.weight) for m in module.modules() if isinstance(m, EMBEDDINGS)}
    places: dict[int, list[tuple[nn.Module, str, nn.Parameter]]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, NORMS):
            continue
        for key, parameter in layer.named_parameters(name, recurse=False):
            matrix = sum(size > 1 for size in parameter.shape) > 1 or _is_linear(layer, key)
            if parameter.is_floating_point() and matrix:
                places.setdefault(id(parameter), []).append((layer, key, parameter))
    found = Weights()
    for identity, sharing in places.items():
        # Where a linear layer shares it with another module, it goes by the layer's name.
        layer, key, weight = min(sharing, key=lambda place: not _is_linear(*place[:2]))
        found.values += weight.numel()
        if identity in embedded:
            continue
        names = [n for _, key, _ in sharing for n in (key.rpartition(".")[0], key) if n]
        found.names += names
        name = key.removesuffix(".weight")
        if pattern := matching(exclude, names):
            found.excluded[name] = f"excluded by {pattern!r}"
        elif _is_linear(layer, key):
            found.linear[name] = weight
            found.layers[name] = [where for where, key, _ in sharing if _is_linear(where, key)]
        else:
            found.missed[key] = f"{list(weight.shape)} of {type(layer).__name__}"
    return found


def _is_linear(layer: nn.Module, key: str) -> bool:
    """Whether a parameter of this layer, by its full name, is what a linear layer multiplies by."""
    own = key.rpartition(".")[2]
    if isinstance(layer, nn.MultiheadAttention):
        return own in ATTENTION
    return own == "weight" and (isinstance(layer, nn.Linear) or is_transposed(layer))


def is_transposed(layer: nn.Module) -> bool:
    """Whether the layer's weight is (in, out), as that of transformers' ``Conv1D`` is."""
    # By name, so that nobody needs transformers who has no model of theirs.
    return CONV1D in {f"{cls.__module__}.{cls.__name__}" for cls in type(layer).__mro__}
