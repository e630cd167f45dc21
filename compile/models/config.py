"""What a transformer is made of, as plain data: readable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from compile.errors import InputError
from compile.signature import Signature, TensorSpec

Head = Literal["classification", "masked-lm", "causal-lm"]

TASKS: dict[str, str] = {
    "classification": "text-classification",
    "masked-lm": "fill-mask",
    "causal-lm": "text-generation",
}
"""Head -> name of its task on the model hub, which is the name that ``Model.task`` uses."""


@dataclass(frozen=True)
class TransformerConfig:
    """Every choice that the one transformer of ``compile.models.transformer`` offers.

    Sizes are in elements: ``width`` is the hidden size, ``ffn`` the feed-forward's inner size,
    ``kv_heads`` the key/value heads that ``heads`` query heads share (equal: multi-head; fewer:
    grouped-query; one: multi-query). Raises InputError for a combination that has no meaning.
    """

    kind: Literal["encoder", "decoder"]
    vocabulary: int
    max_sequence: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    position: Literal["learned", "sinusoidal", "rotary"] = "learned"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_first: bool = False
    """True: x + f(norm(x)), with a norm after the last layer (GPT-2, LLaMA). False: norm(x + f(x)),
    with a norm after the embeddings (BERT)."""
    activation: Literal["gelu", "gelu-tanh", "swiglu"] = "gelu"
    segments: int = 0
    """Rows of the segment embedding; 0 leaves it, and the input ``token_type_ids``, out."""
    bias: bool = True
    tied_head: bool = True
    """The language-modelling head multiplies by the token embedding itself."""
    head: Head = "classification"
    classes: int = 0
    head_dim: int = 0
    """Width of an attention head; 0 is ``width / heads``. Another one where heads were removed."""
    eps: float = 1e-12
    rope_theta: float = 10_000.0
    initial_std: float = 0.02
    """Standard deviation of a fresh model's matrices (BERT, GPT-2)."""
    initial_locality: float = 0.0
    """Standard deviation of one vector that a fresh head's query and key biases share. Rotated, it
    scores a key by its distance alone, highest at 0: every head starts by looking near."""

    def __post_init__(self) -> None:
        for field, hint in get_type_hints(type(self)).items():
            value, allowed = getattr(self, field), get_args(hint)
            if allowed and value not in allowed:
                raise InputError(f"{field} = {value!r} is not one of {', '.join(allowed)}")
            if hint is int and (type(value) is not int or value < 0):
                raise InputError(f"{field} = {value!r} has to be a whole number, 0 or more")
        for field in ("vocabulary", "max_sequence", "width", "layers", "heads", "kv_heads", "ffn"):
            if getattr(self, field) == 0:
                raise InputError(f"{field} has to be at least 1")
        if not self.head_dim and self.width % self.heads:
            raise InputError(f"width = {self.width} does not divide among heads = {self.heads}")
        if self.heads % self.kv_heads:
            raise InputError(f"heads = {self.heads} do not share kv_heads = {self.kv_heads} evenly")
        if self.position == "rotary" and self.head_size % 2:
            raise InputError(f"rotary positions need an even head size, not {self.head_size}")
        if self.position == "sinusoidal" and self.width % 2:
            raise InputError(f"sinusoidal positions need an even width, not {self.width}")
        if self.eps <= 0 or self.rope_theta <= 0 or self.initial_std <= 0:
            raise InputError("eps, rope_theta and initial_std have to be above 0")
        if self.initial_locality < 0:
            raise InputError("initial_locality has to be 0 or more")
        if self.initial_locality and not (self.position == "rotary" and self.bias):
            raise InputError("initial_locality needs rotary positions and biases")
        if (self.kind == "decoder") != (self.head == "causal-lm"):
            raise InputError(f"a {self.kind} cannot have a {self.head} head")
        if self.kind == "decoder" and self.segments:
            raise InputError("a decoder takes no segments")
        if (self.head == "classification") != (self.classes > 0):
            raise InputError(
                f"head = {self.head!r} with classes = {self.classes}: a classification head, "
                "and no other, needs the number of classes"
            )

    @property
    def head_size(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def task(self) -> str:
        """The head's task by its name on the model hub."""
        return TASKS[self.head]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TransformerConfig:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise InputError(f"unknown transformer setting {unknown[0]!r}")
        return cls(**data)

    def signature(self) -> Signature:
        """The inputs and outputs that ``docs/architecture.md`` promises for this kind."""
        if self.kind == "decoder":
            return decoder_signature(
                self.vocabulary, self.layers, self.kv_heads, self.head_size, self.max_sequence
            )
        tokens = TensorSpec("input_ids", "int64", ("batch", "sequence"), high=self.vocabulary)
        inputs = [tokens, TensorSpec("attention_mask", "int64", ("batch", "sequence"), 2, "ones")]
        if self.segments:
            inputs.append(
                TensorSpec("token_type_ids", "int64", ("batch", "sequence"), self.segments, "zeros")
            )
        shape: tuple[int | str, ...] = ("batch", self.classes)
        if self.head == "masked-lm":
            shape = ("batch", "sequence", self.vocabulary)
        return Signature(
            tuple(inputs), (TensorSpec("logits", "float32", shape),), self.max_sequence
        )


def decoder_signature(
    vocabulary: int, layers: int, kv_heads: int, head_size: int, max_sequence: int | None
) -> Signature:
    """Tokens, mask and past keys and values in; logits and present keys and values out.

    ``past`` tokens are in the cache, ``sequence`` are fed now, ``total`` are both together.
    """

    def cache(prefix: str, axis: str) -> tuple[TensorSpec, ...]:
        shape = ("batch", kv_heads, axis, head_size)
        return tuple(
            TensorSpec(f"{prefix}.{layer}.{part}", "float32", shape)
            for layer in range(layers)
            for part in ("key", "value")
        )

    tokens = TensorSpec("input_ids", "int64", ("batch", "sequence"), vocabulary)
    mask = TensorSpec("attention_mask", "int64", ("batch", "total"), 2, "ones")
    logits = TensorSpec("logits", "float32", ("batch", "sequence", vocabulary))
    return Signature(
        (tokens, mask, *cache("past_key_values", "past")),
        (logits, *cache("present", "total")),
        max_sequence,
    )
