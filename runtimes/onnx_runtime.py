"""ONNX Runtime with its CPU, CUDA and TensorRT providers.

On CPU the timed call is ``session.run(None, feeds)`` with NumPy arrays, as in a user's own loop.
On CUDA inputs and outputs are bound on the device before the clock starts.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compile.errors import InputError, Unsupported
from compile.ort_reason import ort_reason
from compile.signature import Feeds, Signature
from runtimes import memory
from runtimes.distributions import installed
from runtimes.manifest import read_signature
from runtimes.onnx_proof import Arena, Profile, onnx_proof, profiled
from runtimes.options import parse
from runtimes.session import (
    Availability,
    FairnessContract,
    MemoryBreakdown,
    Outputs,
    Proof,
    SessionOptions,
)

if TYPE_CHECKING:
    import onnxruntime

MODEL = "model.onnx"
PROVIDERS = {
    "onnxruntime-cpu": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}


@dataclass(frozen=True)
class OnnxRuntimeOptions:
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    """Level of the runtime's own graph rewriting; ``all`` is its default."""


@dataclass(frozen=True)
class OnnxRuntimeCudaOptions(OnnxRuntimeOptions):
    tf32: bool = False
    """Let CUDA multiply float32 in TF32, which ONNX Runtime does by default (``use_tf32``). Off,
    so that a float32 row is float32 everywhere."""


class OnnxRuntimeCpu:
    name = "onnxruntime-cpu"
    kinds = ("onnx",)
    device = "cpu"
    options: type[OnnxRuntimeOptions] = OnnxRuntimeOptions

    def availability(self) -> Availability:
        """Importable, built with this provider, and not overwritten by its sibling package."""
        try:
            import onnxruntime
        except ImportError as error:
            return Availability(False, f"onnxruntime cannot be imported: {error}", self._way_out())
        packages = installed("onnxruntime", "onnxruntime-gpu")
        if len(packages) == 2:
            return Availability(
                False,
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
                "pip uninstall onnxruntime onnxruntime-gpu, then install one of them",
                packages,
            )
        versions = packages or {"onnxruntime": onnxruntime.__version__}
        if PROVIDERS[self.name] not in onnxruntime.get_available_providers():
            reason = f"this onnxruntime has no {PROVIDERS[self.name]}"
            return Availability(False, reason, self._way_out(), versions)
        if reason := self._missing_device():
            return Availability(False, reason, self._way_out(), versions)
        return Availability(True, versions=versions)

    def open(self, folder: str, options: SessionOptions) -> OnnxRuntimeSession:
        chosen = parse(self.options, options.extra, self.name)
        return OnnxRuntimeSession(Path(folder), PROVIDERS[self.name], options, chosen)

    def _way_out(self) -> str:
        return "pip install onnxruntime"

    def _missing_device(self) -> str:
        return ""


class OnnxRuntimeCuda(OnnxRuntimeCpu):
    name = "onnxruntime-cuda"
    device = "cuda"
    options: type[OnnxRuntimeOptions] = OnnxRuntimeCudaOptions

    def _way_out(self) -> str:
        return "on a machine with an NVIDIA GPU, pip install onnxruntime-gpu in onnxruntime's place"

    def _missing_device(self) -> str:
        devices = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the latter under WSL
        return "" if any(device.exists() for device in devices) else "no CUDA device"


class OnnxRuntimeTensorrt(OnnxRuntimeCuda):
    name = "onnxruntime-tensorrt"
    options = OnnxRuntimeOptions

    def _missing_device(self) -> str:
        return super()._missing_device() or _missing_tensorrt()

    def _way_out(self) -> str:
        return (
            "on a machine with an NVIDIA GPU, pip install onnxruntime-gpu and the TensorRT 10 of "
            "its CUDA (tensorrt-cu12 or tensorrt-cu13)"
        )


class OnnxRuntimeSession:
    def __init__(
        self,
        folder: Path,
        provider: str,
        options: SessionOptions,
        chosen: OnnxRuntimeOptions,
    ) -> None:
        import onnxruntime

        self._path = folder / MODEL
        if not self._path.is_file():
            raise InputError(f"{folder} holds no {MODEL}")
        if options.attention != "default":
            raise Unsupported(
                f"ONNX Runtime chooses the attention kernel itself, not {options.attention!r}"
            )
        self._ort = onnxruntime
        self._provider = provider
        self._device_id = _device_id(options.device, provider)
        self._threads = options.threads
        self._level = chosen.graph_optimization
        self._tf32 = isinstance(chosen, OnnxRuntimeCudaOptions) and chosen.tf32
        self._signature = read_signature(str(folder))
        threads_before = _os_threads()
        self._session = self._open(self._session_options())
        # By identity: a library's short-lived threads may end meanwhile.
        self._verify_threads(len(_os_threads() - threads_before))
        _check_names(self._session, self._signature)
        self._last: Feeds | None = None
        self._arenas: dict[frozenset[tuple[str, tuple[int, ...]]], Arena | None] = {}

    def run(self, feeds: Feeds) -> Outputs:
        self._last = feeds
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        self._last = feeds
        if not self._on_device:
            return partial(self._session.run, None, feeds)
        binding = self._session.io_binding()
        for name, array in feeds.items():
            value = self._ort.OrtValue.ortvalue_from_numpy(array, "cuda", self._device_id)
            binding.bind_ortvalue_input(name, value)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, "cuda", self._device_id)
        session = self._session

        def timed() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return timed

    def contract(self) -> FairnessContract:
        return FairnessContract(
            clock="host",
            copies="excluded" if self._on_device else "none",
            synchronised=True,
            io_binding=self._on_device,
            threads=self._threads,
            precision=self._precision(),
        )

    def proof(self) -> Proof:
        """What a profiled call in a second session reports, node by node."""
        if self._last is None:
            raise RuntimeError("proof is asked after at least one run")
        return onnx_proof(self._profile(self._last).nodes, self._provider, self._path)

    def memory(self, feeds: Feeds) -> MemoryBreakdown:
        """Of the process, and of the arena where ``proof`` was asked for calls of these shapes:
        ONNX Runtime tells its arena's statistics in a profile only. On a GPU the arena is the
        allocator, without which nothing would be known: there a call is profiled for it."""
        peak_known = memory.reset_peak()
        outputs = self.run(feeds)
        breakdown = memory.cpu_breakdown(
            memory.onnx_bytes(self._path), peak_known, [*feeds.values(), *outputs.values()]
        )
        if self._on_device and _shapes(feeds) not in self._arenas:
            self._profile(feeds)
        arena = self._arenas.get(_shapes(feeds))
        if self._on_device:
            breakdown = replace(
                breakdown,
                peak_bytes=arena.peak if arena else None,
                reserved_bytes=arena.reserved if arena else None,
                in_use_bytes=arena.in_use if arena else None,
            )
        if arena is None:
            return breakdown
        return replace(breakdown, arena_reserved_bytes=arena.reserved, arena_peak_bytes=arena.peak)

    def close(self) -> None:
        del self._session

    def _profile(self, feeds: Feeds) -> Profile:
        profile = profiled(self._open, self._session_options(), feeds, self._provider)
        self._arenas[_shapes(feeds)] = profile.arena
        return profile

    @property
    def _on_device(self) -> bool:
        return self._provider != PROVIDERS["onnxruntime-cpu"]

    def _session_options(self) -> onnxruntime.SessionOptions:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        levels = self._ort.GraphOptimizationLevel
        options.graph_optimization_level = {
            "disabled": levels.ORT_DISABLE_ALL,
            "basic": levels.ORT_ENABLE_BASIC,
            "extended": levels.ORT_ENABLE_EXTENDED,
            "all": levels.ORT_ENABLE_ALL,
        }[self._level]
        return options

    def _open(self, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        if self._on_device and hasattr(self._ort, "preload_dlls"):
            self._ort.preload_dlls()  # CUDA and cuDNN from their pip packages
        if self._provider == PROVIDERS["onnxruntime-tensorrt"]:
            _missing_tensorrt()  # loads it too
        wanted: list[Any] = [self._provider]
        if self._on_device:
            wanted = [(self._provider, self._provider_options()), "CPUExecutionProvider"]
        try:
            session = self._ort.InferenceSession(str(self._path), options, providers=wanted)
        except Exception as error:  # ONNX Runtime's classes have no base of their own
            raise _explained(error) from error
        if self._provider not in session.get_providers():
            raise Unsupported(f"{self._provider} could not be loaded; ONNX Runtime fell back")
        session.disable_fallback()
        return session

    def _provider_options(self) -> dict[str, Any]:
        chosen = {"device_id": self._device_id}
        if self._provider == PROVIDERS["onnxruntime-cuda"]:
            chosen["use_tf32"] = int(self._tf32)
        return chosen

    def _precision(self) -> str:
        """TensorRT's builder allows TF32 and ONNX Runtime has no switch for it."""
        tensorrt = self._provider == PROVIDERS["onnxruntime-tensorrt"]
        return "tf32" if tensorrt or self._tf32 else "f32"

    def _verify_threads(self, started: int) -> None:
        """The intra-op pool is the caller and ``threads`` - 1 threads made with the session."""
        if self._on_device:  # CUDA starts threads of its own; the pool only serves fallbacks
            return
        if started != self._threads - 1:
            raise Unsupported(
                f"ONNX Runtime runs {started + 1} threads where {self._threads} were asked"
            )


def _missing_tensorrt() -> str:
    """Load TensorRT, from its pip package or the system, before ONNX Runtime's provider, which does
    not look into packages; or say why it cannot be loaded."""
    try:
        importlib.import_module("tensorrt")
    except ImportError:
        try:
            ctypes.CDLL("libnvinfer.so.10")
        except OSError as error:
            return f"TensorRT cannot be loaded: {error}"
    return ""


def _shapes(feeds: Feeds) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((name, array.shape) for name, array in feeds.items())


def _os_threads() -> frozenset[str]:
    """The ids of this process's threads."""
    return frozenset(task.name for task in Path("/proc/self/task").iterdir())


def _device_id(device: str, provider: str) -> int:
    if provider == PROVIDERS["onnxruntime-cpu"]:
        if device != "cpu":
            raise InputError(f"onnxruntime-cpu runs on cpu, not on {device!r}")
        return 0
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise InputError(f"{provider} runs on cuda:N, not on {device!r}")
    return int(index or "0")


def _check_names(session: onnxruntime.InferenceSession, signature: Signature) -> None:
    """The graph must have the inputs and outputs that its manifest promises."""
    for side, values, specs in (
        ("inputs", session.get_inputs(), signature.inputs),
        ("outputs", session.get_outputs(), signature.outputs),
    ):
        graph, manifest = {v.name for v in values}, {s.name for s in specs}
        if graph != manifest:
            differing = ", ".join(sorted(graph ^ manifest))
            raise InputError(f"{MODEL} and its manifest disagree about the {side}: {differing}")


def _explained(error: Exception) -> Exception:
    """ONNX Runtime's load errors by whose they are: the file's, or this machine's."""
    message = ort_reason(error)
    if "External data path" in message:
        return InputError(f"the model's external data is not its own: {message}")
    if type(error).__name__ in ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "InvalidArgument"):
        return InputError(f"not a valid ONNX model: {message}")
    if type(error).__name__ == "NotImplemented":
        return Unsupported(f"ONNX Runtime has no kernel for it: {message}")
    return error
