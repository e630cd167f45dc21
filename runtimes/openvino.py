"""OpenVINO on the CPU, reading ONNX files directly.

Told to compute float32 in float32: on CPUs with AMX or AVX512-BF16 its own default is bfloat16,
and beside weights of 8 or 4 bits it quantizes activations to int8 unasked, whatever the hint.
The timed call is ``InferRequest.infer`` with NumPy arrays that are not copied in, and outputs
that are copied out, which is what ``compiled_model(feeds)`` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compile.errors import InputError, Unsupported
from compile.signature import Feeds, Signature
from runtimes import memory
from runtimes.manifest import read_signature
from runtimes.options import parse
from runtimes.session import (
    Availability,
    FairnessContract,
    MemoryBreakdown,
    Outputs,
    Proof,
    SessionOptions,
)

MODEL = "model.onnx"
DEVICE = "CPU"
PRECISIONS = {"f32": "f32", "float32": "f32", "f16": "f16", "float16": "f16", "bfloat16": "bf16"}
BOUNDARY_LAYERS = frozenset({"Input", "Output", "Const"})
MULTIPLYING_LAYERS = frozenset({"FullyConnected", "MatMul", "Convolution"})
COMPRESSED_PRECISIONS = frozenset({"u4", "i4", "u8", "i8"})
CAST_LAYERS = frozenset({"Convert", "FakeQuantize", "Quantize"})
ATTENTION_LAYERS = frozenset({"ScaledDotProductAttention", "ScaledDotProductAttentionWithKVCache"})


@dataclass(frozen=True)
class OpenVinoOptions:
    precision: Literal["f32", "f16", "bf16"] = "f32"
    """INFERENCE_PRECISION_HINT: what arithmetic floating-point operations may use."""
    hint: Literal["LATENCY", "THROUGHPUT"] = "LATENCY"
    """PERFORMANCE_HINT; one stream either way, because a session makes one call at a time."""
    dynamic_quantization_group: int = 0
    """DYNAMIC_QUANTIZATION_GROUP_SIZE: quantize the activations beside compressed weights to
    int8 in groups of this many (OpenVINO's own default is 32). 0 leaves them as the artifact
    says."""


class OpenVino:
    name = "openvino"
    kinds = ("onnx",)
    device = "cpu"
    options = OpenVinoOptions

    def availability(self) -> Availability:
        way_out = "pip install openvino"
        try:
            import openvino
        except ImportError as error:
            return Availability(False, f"openvino cannot be imported: {error}", way_out)
        versions = {"openvino": openvino.__version__}
        if DEVICE not in openvino.Core().available_devices:
            return Availability(False, "this openvino has no CPU plugin", way_out, versions)
        return Availability(True, versions=versions)

    def open(self, folder: str, options: SessionOptions) -> OpenVinoSession:
        chosen = parse(OpenVinoOptions, options.extra, self.name)
        return OpenVinoSession(Path(folder), options, chosen)


class OpenVinoSession:
    one_at_a_time = True
    """All calls go through one infer request, which refuses a second call meanwhile."""

    def __init__(self, folder: Path, options: SessionOptions, chosen: OpenVinoOptions) -> None:
        import openvino

        self._path = folder / MODEL
        if not self._path.is_file():
            raise InputError(f"{folder} holds no {MODEL}")
        if options.device != "cpu":
            raise InputError(f"openvino runs on cpu, not on {options.device!r}")
        if options.attention != "default":
            raise Unsupported(
                f"OpenVINO chooses the attention kernel itself, not {options.attention!r}"
            )
        self._signature = read_signature(str(folder))
        core = openvino.Core()
        try:
            model = core.read_model(str(self._path))
            self._compiled = core.compile_model(
                model,
                DEVICE,
                {
                    "PERFORMANCE_HINT": chosen.hint,
                    "NUM_STREAMS": 1,
                    "INFERENCE_NUM_THREADS": options.threads,
                    "INFERENCE_PRECISION_HINT": chosen.precision,
                    "DYNAMIC_QUANTIZATION_GROUP_SIZE": chosen.dynamic_quantization_group,
                },
            )
        except RuntimeError as error:
            raise _explained(error) from error
        self._threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        if self._threads != options.threads:
            raise Unsupported(
                f"OpenVINO runs {self._threads} threads where {options.threads} were asked"
            )
        self._precision = _precision(self._compiled)
        if self._precision != chosen.precision:
            raise Unsupported(
                f"OpenVINO computes in {self._precision} here where {chosen.precision} was asked"
            )
        self._quantizes_activations = chosen.dynamic_quantization_group > 0
        _check_names(self._compiled, self._signature)
        self._request = self._compiled.create_infer_request()

    def run(self, feeds: Feeds) -> Outputs:
        results = self._request.infer(feeds, share_inputs=True, share_outputs=False)
        return {spec.name: results[spec.name] for spec in self._signature.outputs}

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        infer = self._request.infer

        def timed() -> object:
            return infer(feeds, share_inputs=True, share_outputs=False)

        timed()  # kernels for new shapes are made at their first call
        return timed

    def contract(self) -> FairnessContract:
        return FairnessContract(
            clock="host",
            copies="none",
            synchronised=True,
            io_binding=False,
            threads=self._threads,
            precision=self._precision,
        )

    def proof(self) -> Proof:
        """The executed graph: each layer's type, and the primitive that computes it."""
        layers = [_Layer.of(node) for node in self._compiled.get_runtime_model().get_ops()]
        executed = [layer for layer in layers if layer.kind not in BOUNDARY_LAYERS]
        kernels = Counter(f"{layer.kind}:{layer.primitive}" for layer in executed)
        types = Counter(layer.kind for layer in executed)
        attention = sorted(types.keys() & ATTENTION_LAYERS)
        return Proof(
            providers={DEVICE: len(executed)},
            kernels=dict(kernels.most_common()),
            integer_kernels=sum(
                layer.multiplies_integers(self._quantizes_activations) for layer in executed
            ),
            casts=sum(types[kind] for kind in CAST_LAYERS),
            attention="+".join(f"openvino:{kind}" for kind in attention),
        )

    def memory(self, feeds: Feeds) -> MemoryBreakdown:
        peak_known = memory.reset_peak()
        outputs = self.run(feeds)
        return memory.cpu_breakdown(
            memory.onnx_bytes(self._path),
            peak_known,
            [*feeds.values(), *outputs.values()],
        )

    def close(self) -> None:
        del self._request, self._compiled


@dataclass(frozen=True)
class _Layer:
    """One node of the executed graph."""

    kind: str
    primitive: str
    """Implementation and its compute type, for example ``brgemm_avx512_f32``."""
    precision: str

    @classmethod
    def of(cls, node: Any) -> _Layer:
        facts = node.get_rt_info()
        keys = ("layerType", "primitiveType", "runtimePrecision")
        return cls(*(str(facts[key].astype(str)) for key in keys))

    def multiplies_integers(self, quantizes_activations: bool) -> bool:
        """Dynamic quantization does not show in the primitive's name, only in the option."""
        if self.kind not in MULTIPLYING_LAYERS:
            return False
        integer = self.primitive.lower().endswith(("_i8", "_u8"))
        compressed = self.precision.lower() in COMPRESSED_PRECISIONS
        return integer or (quantizes_activations and compressed)


def _precision(compiled: Any) -> str:
    name = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return PRECISIONS.get(name, name)


def _check_names(compiled: Any, signature: Signature) -> None:
    """The graph must have the inputs and outputs that its manifest promises."""
    for side, ports, specs in (
        ("inputs", compiled.inputs, signature.inputs),
        ("outputs", compiled.outputs, signature.outputs),
    ):
        graph = {name for port in ports for name in port.get_names()}
        if missing := [spec.name for spec in specs if spec.name not in graph]:
            raise InputError(
                f"{MODEL} and its manifest disagree about the {side}: {', '.join(missing)}"
            )


def _explained(error: RuntimeError) -> Exception:
    """OpenVINO's load errors by whose they are: the file's, or this runtime's."""
    message = str(error)
    if "can't be parsed" in message or "Unable to read the model" in message:
        return InputError("not a valid ONNX model: OpenVINO cannot parse it")
    if "outside the base directory" in message:
        return InputError("the model's external data points outside of its folder")
    lines = [line.strip(" -") for line in message.splitlines() if line.startswith("--")]
    if "OpConversionFailure" in message and lines:
        return Unsupported(f"OpenVINO cannot convert the model: {'; '.join(lines)}")
    if "FrontEnd API failed" in message:
        return Unsupported(f"OpenVINO cannot read the model: {message.splitlines()[-1]}")
    return error
