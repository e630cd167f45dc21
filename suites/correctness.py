"""Nothing is timed before it is right: a session's outputs against its reference's.

The reference is the fp32 model that the session's build computes the same function as: the
trained (distilled, pruned) torch model before any change of format, run by torch on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compile.errors import Incorrect
from compile.signature import Feeds
from quantize.recipe import Tolerance

CHUNK = 1 << 20
"""Elements compared at once."""


@dataclass(frozen=True)
class Fidelity:
    """How far outputs are from their reference, over all calls that were compared."""

    max_abs_error: float
    max_rel_error: float
    """``max_abs_error`` over the reference's largest magnitude."""
    relative_error: float
    """||out - reference|| / ||reference||, Euclidean."""
    snr_db: float
    """-20 log10(relative_error); infinite where nothing differs."""
    top1_agreement: float | None
    """Share of positions whose largest logit is the reference's; None for outputs that are not
    logits (fewer than two axes)."""
    predictions: int
    """Positions that ``top1_agreement`` compares."""
    kl_divergence: float | None
    """Mean over positions of KL(reference || out) of the softmaxes, in nats."""


def compare(outputs: Sequence[Feeds], references: Sequence[Feeds]) -> Fidelity:
    """Compare calls pairwise, on their first output, in float64.

    Later outputs (a KV cache) are only held to being finite: their layout may differ between
    builds. Raises Incorrect for outputs that are missing, of another shape, or not finite.
    """
    difference = reference_power = 0.0
    largest_difference = largest_reference = 0.0
    agreements: list[np.ndarray] = []
    divergences: list[np.ndarray] = []
    for out, reference in zip(outputs, references, strict=True):
        _require_finite(out)
        name, expected = next(iter(reference.items()))
        if name not in out:
            raise Incorrect(f"output {name!r} is missing; there are {', '.join(out)}")
        actual = out[name]
        if actual.shape != expected.shape:
            raise Incorrect(
                f"output {name!r} has shape {actual.shape}, the reference {expected.shape}"
            )
        _require_finite({f"reference {name}": expected})
        are_logits = expected.ndim >= 2 and expected.shape[-1] > 1
        for have, want in zip(_chunks(actual), _chunks(expected), strict=True):
            delta = have - want
            difference += float(np.sum(delta**2))
            reference_power += float(np.sum(want**2))
            largest_difference = max(largest_difference, float(np.abs(delta).max(initial=0.0)))
            largest_reference = max(largest_reference, float(np.abs(want).max(initial=0.0)))
            if are_logits:
                agreements.append(have.argmax(-1) == want.argmax(-1))
                divergences.append(kl_divergence(want, have))
    relative = float(np.sqrt(difference / reference_power)) if reference_power else difference
    return Fidelity(
        max_abs_error=largest_difference,
        max_rel_error=largest_difference / largest_reference if largest_reference else 0.0,
        relative_error=relative,
        snr_db=float(-20 * np.log10(relative)) if relative else float("inf"),
        top1_agreement=float(np.concatenate(agreements).mean()) if agreements else None,
        predictions=sum(len(part) for part in agreements),
        kl_divergence=float(np.concatenate(divergences).mean()) if divergences else None,
    )


def require(fidelity: Fidelity, tolerance: Tolerance) -> None:
    """Raise Incorrect where the fidelity falls short of what the recipe declares."""
    floor = tolerance.min_snr_db
    if floor is not None and not fidelity.snr_db >= floor:
        raise Incorrect(
            f"signal to noise {fidelity.snr_db:.1f} dB is below the recipe's {floor:g} dB "
            f"(largest error {fidelity.max_abs_error:.3g})"
        )
    share = tolerance.min_top1_agreement
    if share is not None and (fidelity.top1_agreement or 0.0) < share:
        raise Incorrect(
            f"top-1 agreement {fidelity.top1_agreement or 0.0:.1%} is below the recipe's "
            f"{share:.1%}"
        )


def kl_divergence(reference: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """KL(softmax(reference) || softmax(actual)) along the last axis, in nats; never negative."""
    p, q = _log_softmax(reference), _log_softmax(actual)
    return np.maximum(np.sum(np.exp(p) * (p - q), axis=-1), 0.0)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array in float64 as rows along its last axis, a few at a time: whole logits of a large
    vocabulary would be gigabytes."""
    rows = array.reshape(-1, array.shape[-1]) if array.ndim and array.size else array.reshape(1, -1)
    step = max(1, CHUNK // max(1, rows.shape[-1]))
    for start in range(0, len(rows), step):
        yield rows[start : start + step].astype(np.float64)


def _require_finite(outputs: Mapping[str, np.ndarray]) -> None:
    for name, array in outputs.items():
        if array.dtype.kind in "iub":
            continue
        # bfloat16 is no kind of float to NumPy, which is why all but integers are looked at.
        bad = sum(int((~np.isfinite(part)).sum()) for part in _chunks(array))
        if bad:
            raise Incorrect(f"output {name!r} has {bad} of {array.size} values that are not finite")
