"""What ran in torch, operator by operator, from a profiled call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtimes.session import Proof

if TYPE_CHECKING:
    import torch

ATTENTION_OPERATORS = {
    "aten::_scaled_dot_product_attention_math": "sdpa:math",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "sdpa:flash",
    "aten::_scaled_dot_product_flash_attention": "sdpa:flash",
    "aten::_scaled_dot_product_efficient_attention": "sdpa:efficient",
    "aten::_scaled_dot_product_cudnn_attention": "sdpa:cudnn",
}
INTEGER_OPERATORS = ("aten::_int_mm", "quantized::", "onednn::qlinear", "bitsandbytes::int8")
CAST_OPERATOR = "aten::_to_copy"
COMPILED_KERNELS = ("triton_", "cudaGraphLaunch")
"""Events of what torch.compile made, in whose names there is no ``::``: a kernel of its own, and a
recorded graph of kernels, which does not tell what is in it. Its C++ kernels are no events."""
_BOOKKEEPING = (
    *("as_strided", "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "flatten"),
    *("t", "transpose", "permute", "unsqueeze", "squeeze", "slice", "select", "narrow", "split"),
    *("chunk", "unbind", "alias", "detach", "empty", "empty_like", "empty_strided", "resize_"),
    *("resolve_conj", "resolve_neg", "result_type", "scalar_tensor", "copy_", "to", "item"),
    *("_local_scalar_dense", "unflatten", "type_as"),
)
BOOKKEEPING_OPERATORS = frozenset(f"aten::{name}" for name in _BOOKKEEPING)
"""Views, allocations, and the copies inside of operators that are counted themselves."""


def profiled_events(call: Callable[[], object], device: torch.device) -> Sequence[Any]:
    """The profiler's events of one call."""
    # Not torch.profiler, which wraps the same recorder and imports the whole compiler to do so: a
    # second, and 70 MB that the session would be said to need.
    from torch.autograd.profiler import profile

    with profile(use_device="cuda" if device.type == "cuda" else None) as recorded:
        call()
    return recorded.function_events or []


def torch_proof(events: Sequence[Any], device: torch.device, fallback: str) -> Proof:
    """The proof of a call from its events; ``fallback`` is what they cannot tell."""
    kernels = Counter(
        name for event in events if event.cpu_parent is None for name in _working(event)
    )
    every = Counter(event.name for event in events)
    attention = {ATTENTION_OPERATORS[name] for name in every if name in ATTENTION_OPERATORS}
    integer = sum(n for name, n in every.items() if name.startswith(INTEGER_OPERATORS))
    return Proof(
        providers={str(device): kernels.total()},
        kernels=dict(kernels.most_common()),
        integer_kernels=integer,
        casts=every[CAST_OPERATOR],
        attention="+".join(sorted(attention)),
        fallback=fallback,
    )


def _working(event: Any) -> list[str]:
    """Names of the innermost operators at or below a profiled event that are no bookkeeping."""
    below = [name for child in event.cpu_children for name in _working(child)]
    operator = "::" in event.name and event.name not in BOOKKEEPING_OPERATORS
    own = operator or event.name.startswith(COMPILED_KERNELS)
    return below or ([event.name] if own else [])
