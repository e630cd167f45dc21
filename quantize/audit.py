"""What a pass must prove of its result before it counts as made.

Quantizers fail silently: they match no node, leave layers in float, emit graphs that no kernel
runs, or destroy the outputs. Each check here raises ``PassFailed`` with what was expected and
found, and returns what it measured as facts for the lineage.
"""

from __future__ import annotations

import difflib
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, NotImplemented

from compile.artifact import MANIFEST, Artifact
from compile.data import DataSource
from compile.graph import MODEL
from compile.ort_reason import ort_reason
from compile.signature import Feeds
from quantize.exclude import unmatched
from quantize.linear import Selection
from quantize.passes import Int4, Int8

CHUNK = 1 << 20
"""Values that are widened to float64 at a time."""
INTEGER_KERNELS = frozenset(
    {
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearMatMul",
    }
)
FLOAT_KERNELS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "DeformConv",
        "Einsum",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GRU",
        "Gemm",
        "LSTM",
        "MatMul",
        "NhwcFusedConv",
        "RNN",
    }
)
ATTENTION_KERNELS = frozenset(
    {"Attention", "GroupQueryAttention", "LinearAttention", "MultiHeadAttention"}
)
"""Operators that multiply two activations, twice, and always in float."""
JOINED = ("/MatMulAddFusion", "/MatmulTransposeFusion/")
"""What ONNX Runtime adds to the name of a product that it joins with its bias, or with the
transposition of a factor."""
FEWEST_EXAMPLES = 16
"""Calibration examples below which nothing is calibrated or compared, unless a recipe asks for
fewer: the ranges of so few texts say little of the next one."""


class PassFailed(RuntimeError):
    """A pass did not do what it declares."""

    def __init__(self, name: str, condition: str, expected: str, found: str) -> None:
        super().__init__(f"pass {name}: {condition}: expected {expected}, found {found}")


def check_examples(name: str, parameter: str, data: DataSource, wanted: int) -> int:
    """As many calibration examples as are wanted, or all where there are fewer: at least
    ``FEWEST_EXAMPLES`` of them, or the number wanted if that is less.

    ``parameter`` is what asks for them, as the user knows it."""
    found = data.calibration_examples(wanted)
    fewest = min(wanted, FEWEST_EXAMPLES)
    if found < fewest:
        raise PassFailed(
            name,
            parameter,
            f"{wanted} examples to calibrate on, or at least {fewest}",
            f"{found} in the data's calibration split; give the task more texts",
        )
    return found


def check_matched(name: str, selection: Selection) -> dict[str, Any]:
    """At least one layer was taken, and none was left because of its form."""
    if selection.missed:
        node, reason = next(iter(selection.missed.items()))
        raise PassFailed(
            name,
            "nodes matched",
            "every product with a constant",
            f"{len(selection.missed)} it cannot take, first {node!r}: {reason}; "
            "to leave it in float on purpose, exclude it by its name",
        )
    if not selection.layers:
        raise PassFailed(
            name, "nodes matched", "at least one linear layer", f"none ({_why_none(selection)})"
        )
    return {
        "layers": len(selection.layers),
        "layers_eligible": len(selection.layers) + len(selection.excluded),
        "layers_excluded": dict(selection.excluded),
    }


def check_patterns(asked: Int8 | Int4, names: Sequence[str]) -> None:
    """Each pattern of ``layers`` and ``exclude`` matches something."""
    check_exclude(asked.name, asked.layers, names, "layers")
    check_exclude(asked.name, asked.exclude, names)


def check_exclude(
    name: str, patterns: Sequence[str], names: Sequence[str], key: str = "exclude"
) -> None:
    """Each pattern of ``exclude``, or of another key, matches something: a slip of the pen would
    quantize a layer that was to be spared. ``names`` are all that could be excluded."""
    for pattern in unmatched(patterns, names):
        near = difflib.get_close_matches(pattern, names, n=1, cutoff=0) or ["none"]
        raise PassFailed(
            name,
            f"{key} {pattern!r}",
            "a layer or weight that it matches",
            f"none among {len(names)} names, like {near[0]!r}",
        )


def check_smaller(
    name: str, weights: tuple[int, int], files: tuple[int, int], most: float
) -> dict[str, Any]:
    """The transformed weights take at most the share ``most`` of their bytes before, and the
    files shrank. Both pairs are (bytes before, bytes after)."""
    before, after = weights
    if after > most * before:
        raise PassFailed(
            name,
            "bytes of weights",
            f"at most {most:.3g} of the {before} before",
            f"{after / before:.3g} of them",
        )
    if files[1] >= files[0]:
        raise PassFailed(name, "bytes of files", f"fewer than {files[0]}", f"{files[1]}")
    return {
        "weights_bytes_before": before,
        "weights_bytes": after,
        "weights_ratio": round(after / before, 4),
        "file_ratio": round(files[1] / files[0], 4),
    }


def check_faithful(
    name: str,
    before: Callable[[Feeds], Feeds],
    after: Callable[[Feeds], Feeds],
    examples: Iterable[Feeds],
    floor_db: float,
) -> dict[str, Any]:
    """Outputs are finite, within ``floor_db`` of what they were before, and not all the same.

    The ratio is that of the worst output over all examples together.
    """
    power: defaultdict[str, float] = defaultdict(float)
    noise: defaultdict[str, float] = defaultdict(float)
    for feeds in examples:
        reference, outputs = before(feeds), after(feeds)
        for output, expected in reference.items():
            got = outputs[output]
            if got.shape != expected.shape:
                raise PassFailed(name, f"shape of {output!r}", f"{expected.shape}", f"{got.shape}")
            if not np.isfinite(got).all():
                bad = int(got.size - np.isfinite(got).sum())
                raise PassFailed(
                    name, f"values of {output!r}", "finite ones", f"{bad} that are not"
                )
            signal, error = signal_and_noise(expected, got)
            power[output] += signal
            noise[output] += error
    ratios = {output: decibels(power[output], noise[output]) for output in power}
    worst = min(ratios, key=lambda output: ratios[output])
    if ratios[worst] < floor_db:
        raise PassFailed(
            name,
            f"signal-to-noise ratio of {worst!r}",
            f"at least {floor_db:g} dB",
            f"{ratios[worst]:.1f} dB",
        )
    if min(ratios.values()) == math.inf:
        raise PassFailed(name, "effect", "other outputs than before", "the same to the last bit")
    # Without any signal the ratio is minus infinity, which JSON does not know.
    return {"snr_db": round(ratios[worst], 2) if math.isfinite(ratios[worst]) else None}


def check_kernels(
    name: str, kernels: Mapping[str, Sequence[str]], layers: Sequence[str]
) -> dict[str, Any]:
    """Each of the nodes ``layers`` ran in a kernel for quantized weights, under its own name.

    ``kernels`` names the nodes that ran, by operator. Those that multiplied in float are told by
    name where others ran on quantized weights.
    """
    quantized = {k: kernels[k] for k in sorted(INTEGER_KERNELS & kernels.keys())}
    floats = [node for k in sorted(FLOAT_KERNELS & kernels.keys()) for node in kernels[k]]
    attention = [node for k in sorted(ATTENTION_KERNELS & kernels.keys()) for node in kernels[k]]
    ran = {node for nodes in quantized.values() for node in nodes}
    if missed := [layer for layer in layers if layer not in ran]:
        operators = {node: operator for operator, nodes in kernels.items() for node in nodes}
        raise PassFailed(
            name,
            "layers in kernels for quantized weights in ONNX Runtime",
            f"all {len(layers)}",
            f"{len(layers) - len(missed)}; {missed[0]!r} ran "
            f"{f'as {operators[missed[0]]}' if missed[0] in operators else 'under no such name'}",
        )
    facts: dict[str, Any] = {
        "quantized_kernels": {kernel: len(nodes) for kernel, nodes in quantized.items()},
        "float_products": len(floats),
    }
    if quantized and floats:
        facts["float_nodes"] = floats
    if quantized and attention:
        facts["float_attention"] = len(attention)
    return facts


def audit_onnx(
    name: str,
    source: Artifact,
    folder: Path,
    examples: Iterable[Feeds],
    floor_db: float,
    layers: Sequence[str] = (),
    signed: bool = False,
) -> dict[str, Any]:
    """Open and run the graph in ``folder`` beside the one that it was made from; ``layers`` are
    the nodes that have to run in kernels for quantized weights, ``signed`` says whether with
    signed activations."""
    before = OnnxRun(name, source.folder / MODEL)
    after = OnnxRun(name, folder / MODEL, profile=True, signed=signed)
    facts = check_faithful(name, before, after, examples, floor_db)
    return facts | check_kernels(name, after.kernels(), layers)


def folder_bytes(folder: Path) -> int:
    """Bytes of an ONNX artifact's files that are not its manifest."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST)


def signal_and_noise(reference: np.ndarray, outputs: np.ndarray) -> tuple[float, float]:
    """sum ref^2 and sum (ref - out)^2 in float64, a chunk at a time."""
    signal = noise = 0.0
    expected, got = reference.reshape(-1), outputs.reshape(-1)
    for start in range(0, expected.size, CHUNK):
        wide = expected[start : start + CHUNK].astype(np.float64)
        error = wide - got[start : start + CHUNK].astype(np.float64)
        signal += float(wide @ wide)
        noise += float(error @ error)
    return signal, noise


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite without noise, minus infinity without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


class OnnxRun:
    """A graph open in ONNX Runtime on the CPU, for checking and never for timing."""

    def __init__(self, name: str, path: Path, profile: bool = False, signed: bool = False) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if signed:
            # Off on x86, where such kernels are slow: it turns values with one reader into unsigned
            # ones, and multiplies those with several in float.
            options.add_session_config_entry("session.qdqisint8allowed", "1")
        self._folder = tempfile.TemporaryDirectory(prefix="assay-audit-") if profile else None
        if self._folder:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        try:
            self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except (Fail, InvalidGraph, NotImplemented) as error:
            wanted = "one that ONNX Runtime opens"
            raise PassFailed(name, "graph", wanted, ort_reason(error)) from error
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, feeds: Feeds) -> Feeds:
        return dict(zip(self.outputs, self.session.run(self.outputs, feeds), strict=True))

    def kernels(self) -> dict[str, list[str]]:
        """The nodes that ran, by operator type, from the session's own profile. Ends it."""
        profile = Path(self.session.end_profiling())
        ran = {
            # Nodes of branches and loops are counted from 0 again.
            (int(event["args"]["node_index"]), event["name"]): event
            for event in json.loads(profile.read_text())
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time")
        }
        if self._folder:
            self._folder.cleanup()
        by_operator: dict[str, list[str]] = {}
        for _, event in sorted(ran.items()):
            name = event["name"].removesuffix("_kernel_time")
            for suffix in JOINED:
                name = name.removesuffix(suffix)
            by_operator.setdefault(event["args"]["op_name"], []).append(name)
        return by_operator


def _why_none(selection: Selection) -> str:
    if selection.excluded:
        return f"all {len(selection.excluded)} are excluded by name"
    return "the graph has no MatMul by a constant matrix"
