"""The passes a recipe can name: their parameters, bounds and place in the order.

Nothing heavy is imported here, so that the main process can read and check recipes. What a pass
does is in the module of its own name (``quantize/int8.py``, ...), loaded by ``quantize/build.py``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compile.artifact import Kind
from compile.distributions import onnxruntime_distributions
from quantize.pruning.pattern import Pattern, parse_pattern

Patterns = tuple[str, ...]
"""Shell patterns (``*head*``), matched against the names of layers (nodes of a graph, modules)
and of their weights. One that matches none of those that the pass might change is refused."""


Activations = Literal["u8", "s8"]
"""8-bit codes of activations: unsigned with a zero point, or signed and symmetric."""


class Pass(BaseModel):
    """One transformation of an artifact, as asked for. Its fields are its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised whenever the pass would make other bytes from the same input."""
    kinds: ClassVar[tuple[Kind, ...]]
    """Kinds of artifact that it can transform; the result is of the same kind."""
    rank: ClassVar[int]
    """Place in a recipe: passes come in strictly rising rank, so at most one of each rank."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version decides the bytes of the result, whatever it is made of."""

    @property
    def needs_data(self) -> bool:
        """Whether it calibrates or trains, and so asks for a task or the user's own data."""
        return False

    def why_not(self, target: Kind) -> str | None:
        """Why a build for ``target`` cannot hold this pass, in one line; None where it can."""
        if target == "torch" and "torch" not in self.kinds:
            return f"pass {self.name!r} works on ONNX graphs, which torch runtimes do not open"
        return None

    def works_on(self, kind: Kind, target: Kind) -> Kind:
        """The kind that an artifact of ``kind`` has to have for it, on the way to ``target``."""
        return target if target in self.kinds else self.kinds[0]

    def distributions(self, source: Kind) -> tuple[str, ...]:
        """Distributions whose version decides the bytes of what it makes of such an artifact."""
        return self.libraries

    def parameters(self) -> dict[str, Any]:
        """All parameters, defaults included, as JSON values."""
        return self.model_dump(mode="json")


class Distill(Pass):
    """Train a shallower student on the teacher's logits, hidden states and the labels."""

    name = "distill"
    version = 1
    kinds = ("torch",)
    rank = 0
    libraries = ("torch",)

    layers: int | None = Field(default=None, ge=1)
    """Layers of the student; half of the teacher's, rounded up, where nothing is said."""
    teacher: Literal["torch", "onnx"] = "torch"
    """``onnx`` runs the teacher as its exported graph in ONNX Runtime: logits only."""
    temperature: float = Field(default=2.0, gt=0, le=20)
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the teacher's logits; the labels get the rest."""
    hidden: float = Field(default=1.0, ge=0)
    """Weight of the hidden states' cosine distance."""
    steps: int = Field(default=80, ge=1)
    lr: float = Field(default=5e-4, gt=0, le=1)
    batch_size: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)

    @property
    def needs_data(self) -> bool:
        return True

    def distributions(self, source: Kind) -> tuple[str, ...]:
        # An exported teacher's answers are its kernels'.
        ran = onnxruntime_distributions() if self.teacher == "onnx" else ()
        return (*self.libraries, *ran)


class PruneStructured(Pass):
    """Remove whole attention heads and feed-forward columns, and teach what is left to recover."""

    name = "prune_structured"
    version = 1
    kinds = ("torch",)
    rank = 1
    libraries = ("torch",)

    heads: float = Field(default=0.5, ge=0, lt=1)
    """Share of the attention heads to remove, in each layer as many; query heads that share a key
    and value head go with it."""
    ffn: float = Field(default=0.5, ge=0, lt=1)
    """Share of the feed-forward's inner columns to remove, in each layer as many."""
    multiple: int = Field(default=16, ge=1)
    """What is left of the columns is rounded to a multiple of this."""
    examples: int = Field(default=256, ge=1)
    """Labelled training examples on which importance is measured, one at a time."""
    temperature: float = Field(default=2.0, gt=0, le=20)
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the whole model's logits in recovery; the labels get the rest."""
    hidden: float = Field(default=1.0, ge=0)
    """Weight of the hidden states' cosine distance."""
    steps: int = Field(default=200, ge=0)
    lr: float = Field(default=5e-4, gt=0, le=1)
    batch_size: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)

    @property
    def needs_data(self) -> bool:
        return True

    @model_validator(mode="after")
    def _something_goes(self) -> PruneStructured:
        if not self.heads and not self.ffn:
            raise ValueError("heads = 0 and ffn = 0 leave nothing to remove")
        return self


class Prune(Pass):
    """Set weights of the linear layers to zero and train the rest to recover."""

    name = "prune"
    version = 3
    kinds = ("torch", "onnx")
    rank = 2
    libraries = ("numpy", "scipy")

    method: Literal["magnitude", "wanda", "sparsegpt"] = "magnitude"
    """Which weights go: the smallest, those that pass on least, or those that the others can best
    make up for, which they then do. The last two look at calibration data."""
    pattern: str = "unstructured"
    """``unstructured``, or ``n:m``: n weights at most are kept of each m neighbouring inputs."""
    sparsity: float = Field(default=0.5, gt=0, lt=1)
    """Share of the weights of the selected layers that become zero; a pattern says it itself."""
    scope: Literal["global", "layer"] = "global"
    """Of unstructured magnitude: one threshold for all layers, or the same share in each."""
    examples: int | None = Field(default=None, ge=1)
    """Calibration examples, 128 where nothing is said. ``magnitude`` needs none; given some, it
    too measures what it costs each layer's outputs."""
    exclude: Patterns = Field(default=(), strict=False)
    steps: int = Field(default=60, ge=0)
    """Steps of recovery, for torch modules; 0 prunes without training."""
    alpha: float = Field(default=0.0, ge=0, le=1)
    """Weight of the unpruned model's logits in recovery; the labels get the rest."""
    lr: float = Field(default=3e-4, gt=0, le=1)
    batch_size: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("pattern")
    @classmethod
    def _known(cls, pattern: str) -> str:
        parse_pattern(pattern)
        return pattern

    @property
    def n_of_m(self) -> Pattern | None:
        return parse_pattern(self.pattern)

    @property
    def share(self) -> float:
        """Of the weights, those that become zero."""
        return self.n_of_m.sparsity if self.n_of_m else self.sparsity

    @property
    def calibration(self) -> int:
        """Examples wanted to calibrate on; 0 where data are not looked at."""
        return self.examples or (0 if self.method == "magnitude" else 128)

    @property
    def needs_data(self) -> bool:
        return self.steps > 0 or self.calibration > 0

    def works_on(self, kind: Kind, target: Kind) -> Kind:
        # As it comes, so that a module stays one that can be trained.
        return "torch" if self.steps else kind

    def distributions(self, source: Kind) -> tuple[str, ...]:
        if source == "torch":
            return (*self.libraries, "torch")
        # Calibration runs the graph.
        ran = onnxruntime_distributions() if self.calibration else ()
        return (*self.libraries, "onnx", *ran)

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Prune:
        if self.n_of_m and "sparsity" in self.model_fields_set:
            raise ValueError(f'sparsity would have no effect with pattern = "{self.pattern}"')
        free = self.method == "magnitude" and not self.n_of_m
        if not free and "scope" in self.model_fields_set:
            raise ValueError("scope would have no effect but on unstructured magnitude")
        if not self.steps and self.alpha:
            raise ValueError("alpha would have no effect without steps of recovery")
        return self


class Qat(Pass):
    """Train with the rounding of static ``int8`` in the forward pass, by torchao's PT2E."""

    name = "qat"
    version = 1
    kinds = ("torch",)
    rank = 2
    """That of ``prune``: training would fill its zeros again."""
    libraries = ("torch", "torchao")

    activations: Activations = "u8"
    """Codes that are trained for: as in the ``int8`` behind it."""
    exclude: Patterns = Field(default=(), strict=False)
    alpha: float = Field(default=1.0, ge=0, le=1)
    """Weight of the unquantized model's logits; the labels get the rest."""
    steps: int = Field(default=100, ge=2)
    lr: float = Field(default=1e-5, gt=0, le=1)
    batch_size: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)

    @property
    def needs_data(self) -> bool:
        return True

    def why_not(self, target: Kind) -> str | None:
        if target == "torch":
            return "pass 'qat' trains for the 'int8' behind it, which works on ONNX graphs"
        if find_spec("torchao") is None:
            return "pass 'qat' needs torchao: pip install 'assay[qat]'"
        return None

    def works_on(self, kind: Kind, target: Kind) -> Kind:
        return "torch"

    def why_not_before(self, later: Pass | None) -> str | None:
        """Why it cannot stand before that pass of a recipe, in one line; None where it can."""
        if not isinstance(later, Int8) or later.mode != "static":
            return "'qat' trains for static ranges: 'int8' with mode = \"static\" has to come next"
        if self.activations != later.activations:
            return "'qat' and 'int8' have to agree about activations"
        if set(self.exclude) != set(later.exclude):
            return "'qat' and 'int8' have to exclude the same"
        return None


class Fuse(Pass):
    """Let ONNX Runtime fuse subgraphs into its own operators, in the file."""

    name = "fuse"
    version = 2
    kinds = ("onnx",)
    rank = 3

    level: Literal["basic", "extended", "all"] = "extended"


class Awq(Pass):
    """Scale up the inputs that carry much in the weights that read them, before ``int4`` rounds."""

    name = "awq"
    version = 2
    kinds = ("onnx",)
    rank = 4
    libraries = ("onnx", "numpy", "scipy")

    # What the rounding will be, for which the scales are searched: as in the ``int4`` behind it.
    rounding: Literal["rtn", "hqq", "gptq"] = "rtn"
    bits: Literal[2, 3, 4, 8] = 4
    block: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = True
    insert: bool = True
    """Put a ``Mul`` where nothing before a layer can take its scale; else leave the layer."""
    examples: int = Field(default=128, ge=1)
    """Calibration examples, or all that the data's split has."""
    exclude: Patterns = Field(default=(), strict=False)

    @property
    def needs_data(self) -> bool:
        return True

    def distributions(self, source: Kind) -> tuple[str, ...]:
        return (*self.libraries, *onnxruntime_distributions())

    def why_not_before(self, later: Pass | None) -> str | None:
        """Why it cannot stand before that pass of a recipe, in one line; None where it can."""
        if not isinstance(later, Int4):
            return "'awq' prepares the rounding of 'int4', which has to come behind it"
        shared = ("rounding", "bits", "block", "symmetric")
        unlike = [key for key in shared if getattr(self, key) != getattr(later, key)]
        if unlike:
            return f"'awq' and 'int4' have to agree about {', '.join(unlike)}"
        return None


class Smooth(Pass):
    """SmoothQuant: move part of the activations' range into the weights, before static ``int8``."""

    name = "smooth"
    version = 2
    kinds = ("onnx",)
    rank = 4
    libraries = ("onnx", "numpy")

    activations: Activations = "u8"
    """Codes for which alpha is searched: as in the ``int8`` behind it."""
    insert: bool = True
    """Put a ``Mul`` where nothing before a layer can take its scale; else leave the layer."""
    examples: int = Field(default=128, ge=1)
    """Calibration examples, or all that the data's split has."""
    exclude: Patterns = Field(default=(), strict=False)

    @property
    def needs_data(self) -> bool:
        return True

    def distributions(self, source: Kind) -> tuple[str, ...]:
        return (*self.libraries, *onnxruntime_distributions())

    def why_not_before(self, later: Pass | None) -> str | None:
        """Why it cannot stand before that pass of a recipe, in one line; None where it can."""
        if not isinstance(later, Int8) or later.mode != "static":
            wanted = "'int8' with mode = \"static\""
            return f"'smooth' prepares static ranges: {wanted} has to come behind it"
        if later.calibration not in ("minmax", "mse"):
            # What they cut off is no part of the error that alpha is searched for.
            return (
                "'smooth' is for ranges that lose least: 'int8' behind it needs calibration = "
                f'"minmax" or "mse", not "{later.calibration}"'
            )
        if self.activations != later.activations:
            return "'smooth' and 'int8' have to agree about activations"
        return None


class Fp16(Pass):
    """IEEE half precision. An ONNX graph keeps its float32 inputs and outputs."""

    name = "fp16"
    version = 4
    kinds = ("torch", "onnx")
    rank = 5

    exclude: Patterns = Field(default=(), strict=False)
    """Nodes of an ONNX graph, not those inside of branches and loops, that stay in float32 beside
    the operators known to overflow."""
    search: bool = False
    """Find the nodes of an ONNX graph whose values half precision does not hold, and keep as few
    as can be in float32."""
    examples: int = Field(default=16, ge=1)
    """Calibration examples of ``search``, or all that the data's split has."""
    min_snr_db: float = Field(default=35.0, ge=0)

    @property
    def needs_data(self) -> bool:
        return self.search

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Fp16:
        if "examples" in self.model_fields_set and not self.search:
            raise ValueError("examples would have no effect without search = true")
        return self

    def distributions(self, source: Kind) -> tuple[str, ...]:
        # ONNX Runtime's converter halves a graph, torch a module.
        return ("torch",) if source == "torch" else ("onnx", *onnxruntime_distributions())


class Bf16(Pass):
    """bfloat16: the range of float32 in half the bytes. torch only."""

    name = "bf16"
    version = 2
    kinds = ("torch",)
    rank = 5
    libraries = ("torch",)

    min_snr_db: float = Field(default=20.0, ge=0)

    def why_not(self, target: Kind) -> str | None:
        if target == "onnx":
            return "pass 'bf16' is for torch: ONNX Runtime has no bfloat16 kernels for the CPU"
        return None


class Fp8(Pass):
    """8-bit floats (E4M3) in the linear layers of a torch module, bfloat16 in all else."""

    name = "fp8"
    version = 1
    kinds = ("torch",)
    rank = 5
    libraries = ("torch",)

    exclude: Patterns = Field(default=(), strict=False)
    min_snr_db: float = Field(default=15.0, ge=0)

    def why_not(self, target: Kind) -> str | None:
        if target == "onnx":
            return (
                "pass 'fp8' is for torch: ONNX Runtime's CPU provider multiplies no 8-bit floats, "
                "and its CUDA provider has them in an operator of its own (GemmFloat8)"
            )
        return None


class Int8(Pass):
    """Multiply 8-bit integers: weights s8 per output channel, activations u8 or s8 per tensor."""

    name = "int8"
    version = 4
    kinds = ("onnx",)
    rank = 5
    libraries = ("onnx", "numpy")

    mode: Literal["dynamic", "static"] = "dynamic"
    """Ranges of the activations are found in each call, or once from calibration data."""
    activations: Activations = "u8"
    """Codes of the activations. ``s8`` has zero points of 0, as TensorRT asks."""
    calibration: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    percentile: float = Field(default=99.99, gt=50, lt=100)
    """Share of an activation's values, per cent, that ``percentile`` keeps inside its range."""
    examples: int = Field(default=128, ge=1)
    """Examples of the calibration split, or all that it has; fewer than 16 (or than this, where
    it is less) are a failure of the pass."""
    layers: Patterns = Field(default=(), strict=False)
    """Those to take; all where nothing is said. ``int8`` and ``int4`` can follow one another in a
    recipe where each says which are its own."""
    exclude: Patterns = Field(default=(), strict=False)
    embeddings: bool = False
    """Also store the tables of ``Gather`` in 8 bits."""
    attention: bool = False
    """Also multiply queries by keys, and attention's weights by values, in 8 bits (static)."""
    min_snr_db: float = Field(default=10.0, ge=0)

    @property
    def needs_data(self) -> bool:
        return self.mode == "static"

    def distributions(self, source: Kind) -> tuple[str, ...]:
        # Calibrated ranges are found by running the graph.
        ran = onnxruntime_distributions() if self.mode == "static" else ()
        return (*self.libraries, *ran)

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Int8:
        if self.activations == "s8" and self.mode == "dynamic":
            # DynamicQuantizeLinear makes u8 alone.
            raise ValueError('activations = "s8" needs mode = "static"')
        if self.attention and self.mode == "dynamic":
            raise ValueError('attention = true needs mode = "static"')
        unused = {"calibration", "percentile", "examples"} if self.mode == "dynamic" else set()
        if self.mode == "static" and self.calibration != "percentile":
            unused = {"percentile"}
        if given := sorted(unused & self.model_fields_set):
            needed = 'mode = "static"' if self.mode == "dynamic" else 'calibration = "percentile"'
            raise ValueError(f"{', '.join(given)} would have no effect without {needed}")
        return self


class Int4(Pass):
    """Store weights in codes of few bits by blocks, for ``MatMulNBits`` or as blocked QDQ."""

    name = "int4"
    version = 5
    kinds = ("onnx",)
    rank = 5
    libraries = ("onnx", "numpy", "scipy")

    rounding: Literal["rtn", "hqq", "gptq"] = "rtn"
    """How codes are chosen: to nearest, with each block's grid fitted to most of its weights, or
    with what is left to round making up for what is (needs data)."""
    bits: Literal[2, 3, 4, 8] = 4
    block: Literal[16, 32, 64, 128, 256] = 32
    """Weights along the reduced axis that share one scale."""
    symmetric: bool = True
    """Zero is the middle code in every block; otherwise each block has a zero point of its own."""
    form: Literal["MatMulNBits", "QDQ"] = "MatMulNBits"
    """ONNX Runtime's operator, or standard ONNX: a blocked ``DequantizeLinear`` before a MatMul."""
    accuracy_level: Literal[0, 1, 2, 3, 4] = 4
    """What the kernel may compute in: 0 whatever it likes, 1 fp32, 2 fp16, 3 bf16, 4 int8."""
    examples: int = Field(default=128, ge=1)
    """Calibration examples of ``gptq``, or all that the data's split has."""
    damping: float = Field(default=0.01, gt=0, le=1)
    """Of ``gptq``: share of the inputs' mean power that calibration is taken to have missed."""
    activation_order: bool = True
    """Of ``gptq``: inputs of the largest power are rounded first."""
    layers: Patterns = Field(default=(), strict=False)
    """Those to take; all where nothing is said. ``int8`` and ``int4`` can follow one another in a
    recipe where each says which are its own."""
    exclude: Patterns = Field(default=(), strict=False)
    embeddings: bool = False
    """Also store the tables of ``Gather`` in 4 bits."""
    min_snr_db: float = Field(default=5.0, ge=0)

    @property
    def needs_data(self) -> bool:
        return self.rounding == "gptq"

    def distributions(self, source: Kind) -> tuple[str, ...]:
        # Calibration runs the graph.
        ran = onnxruntime_distributions() if self.needs_data else ()
        return (*self.libraries, *ran)

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Int4:
        gptq = {"examples", "damping", "activation_order"}
        if self.rounding != "gptq" and (given := sorted(gptq & self.model_fields_set)):
            raise ValueError(f'{", ".join(given)} would have no effect without rounding = "gptq"')
        if self.form == "QDQ" and "accuracy_level" in self.model_fields_set:
            raise ValueError('accuracy_level is an attribute of form = "MatMulNBits"')
        if self.form == "QDQ" and self.bits in (2, 3):
            raise ValueError(f"bits = {self.bits}: ONNX has types of 4 and 8 bits for QDQ")
        if self.embeddings and self.bits != 4:
            raise ValueError("embeddings = true stores tables in 4 bits: bits has to be 4")
        return self


PASSES: dict[str, type[Pass]] = {
    cls.name: cls
    for cls in (
        Distill,
        PruneStructured,
        Prune,
        Qat,
        Fuse,
        Awq,
        Smooth,
        Fp16,
        Bf16,
        Fp8,
        Int8,
        Int4,
    )
}
