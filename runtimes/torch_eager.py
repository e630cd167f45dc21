"""torch, operation by operation, on CPU or CUDA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from compile.errors import InputError, Unsupported
from compile.signature import Feeds, Signature
from runtimes import memory
from runtimes.clocks import CUDA_EVENTS, HOST
from runtimes.distributions import installed
from runtimes.options import parse
from runtimes.session import (
    Availability,
    FairnessContract,
    MemoryBreakdown,
    Outputs,
    Proof,
    SessionOptions,
)
from runtimes.torch_proof import profiled_events, torch_proof

if TYPE_CHECKING:
    import torch

ATTENTION_BACKENDS = {
    "sdpa:math": "MATH",
    "sdpa:flash": "FLASH_ATTENTION",
    "sdpa:efficient": "EFFICIENT_ATTENTION",
    "sdpa:cudnn": "CUDNN_ATTENTION",
}
NO_KERNEL = ("No available kernel", "No viable backend")
"""What scaled_dot_product_attention says when every backend that it may choose has declined."""


@dataclass(frozen=True)
class TorchOptions:
    tf32: bool = False
    """Let CUDA multiply float32 in TF32. Off, so that a float32 row is float32 everywhere."""
    clock: Literal["host", "cuda-events"] = "host"
    """What times a call (``runtimes/clocks.py``). Events time the device alone, on CUDA only."""


class TorchEager:
    name = "torch-eager"
    kinds = ("torch",)
    device = "any"
    options = TorchOptions

    def availability(self) -> Availability:
        return torch_availability()

    def open(self, folder: str, options: SessionOptions) -> TorchSession:
        chosen = parse(TorchOptions, options.extra, self.name)
        module, signature = load_module(folder)
        return TorchSession(module, signature, options, tf32=chosen.tf32, clock=chosen.clock)


def torch_availability() -> Availability:
    """Imports everything that opening needs, so that the memory baseline has it too."""
    try:
        import torch

        import compile.models.model  # noqa: F401
    except ImportError as error:
        return Availability(False, f"torch cannot be imported: {error}", "pip install assay")
    # A model from the hub is transformers' code, which is not the same in every version.
    return Availability(True, versions={"torch": torch.__version__, **installed("transformers")})


def load_module(folder: str) -> tuple[torch.nn.Module, Signature]:
    """The torch artifact's module (positional tensors in, tuple out) and signature."""
    from compile.models.model import load_model

    model = load_model(Path(folder))
    return model.module, model.signature


class TorchSession:
    """A module on one device, its inputs and outputs in the signature's order.

    A module of half precision keeps its dtype: floats of the feeds are cast to it at the border,
    outside the timed call. Outputs come back as the signature declares them.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        signature: Signature,
        options: SessionOptions,
        *,
        tf32: bool = False,
        clock: str = HOST,
    ) -> None:
        import torch

        from compile.models.fp8 import why_not_fp8

        self._torch = torch
        self.signature = signature
        self._device = _device(options.device)
        if reason := why_not_fp8(module, self._device):
            raise Unsupported(reason)
        if clock == CUDA_EVENTS and self._device.type != "cuda":
            raise InputError(f"clock = {clock!r} times CUDA devices only, not {options.device}")
        self._clock = clock
        self._backend = _attention_backend(options.attention)
        # A worker's environment has settled it. To say it again would be no repetition: the call
        # also forbids MKL to use fewer threads where that is faster (mkl_set_dynamic), and took 2 %
        # more time from a small encoder than the loop that anybody would write.
        if torch.get_num_threads() != options.threads:
            torch.set_num_threads(options.threads)
        if torch.get_num_threads() != options.threads:
            raise Unsupported(
                f"torch runs {torch.get_num_threads()} threads where {options.threads} were asked"
            )
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        self._tf32 = tf32
        self.module = module.to(self._device).eval()
        self._dtype = _float_dtype(module)
        self.call: Callable[..., Any] = self.module
        """What runs: the module, or what a subclass compiled from it."""
        self._last: Feeds | None = None

    def run(self, feeds: Feeds) -> Outputs:
        self._last = feeds
        inputs = self._tensors(feeds)
        try:
            with self._torch.inference_mode(), self._attention():
                outputs = self.call(*inputs)
        except RuntimeError as error:
            if self._backend is None or not any(words in str(error) for words in NO_KERNEL):
                raise
            name = self._backend.name.lower()
            raise Unsupported(f"torch's {name} cannot run this attention: {error}") from error
        return {
            spec.name: _to_numpy(tensor, spec.dtype)
            for spec, tensor in zip(self.signature.outputs, outputs, strict=True)
        }

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        self._last = feeds
        inputs, call = self._tensors(feeds), self.call
        inference_mode, attention = self._torch.inference_mode, self._attention
        if self._backend is None and self._device.type == "cpu":

            def timed() -> object:
                with inference_mode():
                    return call(*inputs)

        elif self._device.type == "cpu" or self._clock == CUDA_EVENTS:
            # Events wait for the device themselves, after the sample's end.

            def timed() -> object:
                with inference_mode(), attention():
                    return call(*inputs)

        else:
            synchronize, device = self._torch.cuda.synchronize, self._device

            def timed() -> object:
                with inference_mode(), attention():
                    outputs = call(*inputs)
                synchronize(device)
                return outputs

        timed()  # lazy initialisation, and compilation in a subclass, before the clock
        return timed

    def contract(self) -> FairnessContract:
        cuda = self._device.type == "cuda"
        return FairnessContract(
            clock=self._clock,
            copies="excluded" if cuda else "none",
            synchronised=True,
            io_binding=cuda,
            threads=self._torch.get_num_threads(),
            precision=self._precision(),
        )

    def proof(self) -> Proof:
        """One profiled call: the innermost operators that did work, by torch's own account."""
        if self._last is None:
            raise RuntimeError("proof is asked after at least one run")
        inputs = self._tensors(self._last)
        with self._torch.inference_mode(), self._attention():
            events = profiled_events(partial(self.call, *inputs), self._device)
        return torch_proof(events, self._device, self._border_casts())

    def memory(self, feeds: Feeds) -> MemoryBreakdown:
        weights = _weights_bytes(self.module)
        if self._device.type == "cpu":
            peak_known = memory.reset_peak()
            outputs = self.run(feeds)
            tensors = [*feeds.values(), *outputs.values()]
            return memory.cpu_breakdown(weights, peak_known, tensors)
        cuda = self._torch.cuda
        cuda.reset_peak_memory_stats(self._device)
        outputs = self.run(feeds)
        breakdown = memory.minimum(
            MemoryBreakdown(weights_bytes=weights), [*feeds.values(), *outputs.values()]
        )
        return replace(
            breakdown,
            resident_bytes=memory.resident(),
            device_active_bytes=cuda.memory_stats(self._device).get("active_bytes.all.current"),
            peak_bytes=cuda.max_memory_allocated(self._device),
            reserved_bytes=cuda.memory_reserved(self._device),
            in_use_bytes=cuda.memory_allocated(self._device),
        )

    def close(self) -> None:
        self._last = None
        del self.module, self.call

    def _tensors(self, feeds: Feeds) -> list[torch.Tensor]:
        return [self._tensor(feeds[spec.name]) for spec in self.signature.inputs]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        if array.dtype.name == "bfloat16":  # known to torch and to ml_dtypes, not to NumPy
            tensor = self._torch.from_numpy(array.view(np.int16)).view(self._torch.bfloat16)
        else:
            tensor = self._torch.from_numpy(array)
        if tensor.is_floating_point() and self._dtype is not None:
            return tensor.to(self._device, self._dtype)
        return tensor.to(self._device)

    def _attention(self) -> AbstractContextManager[Any]:
        if self._backend is None:
            return nullcontext()
        from torch.nn.attention import sdpa_kernel

        return sdpa_kernel(self._backend)

    def _precision(self) -> str:
        """Of float32 operations: what format a build is stored in is its recipe's doing."""
        return "tf32" if self._tf32 and self._device.type == "cuda" else "f32"

    def _border_casts(self) -> str:
        """Which feeds and outputs have another dtype than the module, in one line."""
        if self._dtype is None:
            return ""
        own = str(self._dtype).removeprefix("torch.")
        specs = [*self.signature.inputs, *self.signature.outputs]
        cast = [s.name for s in specs if "float" in s.dtype and s.dtype != own]
        return f"cast to or from {own} at the border: {', '.join(cast)}" if cast else ""


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is neither cpu nor cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is neither cpu nor cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Unsupported(f"no CUDA device {name}: torch sees {torch.cuda.device_count()}")
    return device


def _attention_backend(name: str) -> Any:
    """torch's SDPABackend; None leaves the choice to torch."""
    if name == "default":
        return None
    if name not in ATTENTION_BACKENDS:
        allowed = ", ".join(["default", *ATTENTION_BACKENDS])
        raise Unsupported(f"torch has no attention {name!r}; it has {allowed}")
    from torch.nn.attention import SDPBackend

    return getattr(SDPBackend, ATTENTION_BACKENDS[name])


def _float_dtype(module: torch.nn.Module) -> torch.dtype | None:
    """The dtype that most of the floating parameters' bytes have; None without any."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in module.parameters():
        if parameter.is_floating_point():
            sizes[parameter.dtype] += parameter.nbytes
    return sizes.most_common(1)[0][0] if sizes else None


def _weights_bytes(module: torch.nn.Module) -> int:
    """Parameters and buffers, tied ones once."""
    tensors = {t.data_ptr(): t.nbytes for t in [*module.parameters(), *module.buffers()]}
    return sum(tensors.values())


def _to_numpy(tensor: torch.Tensor, dtype: str) -> np.ndarray:
    """The tensor as an array of the signature's dtype."""
    import torch

    if dtype == "bfloat16":
        import ml_dtypes

        return tensor.bfloat16().cpu().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.cpu().numpy().astype(dtype, copy=False)
