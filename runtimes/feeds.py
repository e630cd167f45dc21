"""Hold a call's inputs against the signature, before a runtime answers in its own cryptic words."""

from __future__ import annotations

from compile.errors import InputError
from compile.signature import Feeds, Signature, TensorSpec


def check(signature: Signature, feeds: Feeds) -> None:
    """Raise InputError, naming the input, unless ``feeds`` fits ``signature``.

    Checked: names, dtypes, number of axes, fixed axes, one size for each named axis across all
    inputs, and ``total`` = ``past`` + ``sequence`` where the model has all three.
    """
    expected = {spec.name: spec for spec in signature.inputs}
    if missing := [name for name in expected if name not in feeds]:
        raise InputError(f"input {missing[0]!r} is missing; the model takes {_names(expected)}")
    if surplus := [name for name in feeds if name not in expected]:
        raise InputError(
            f"input {surplus[0]!r} is not one of the model's; it takes {_names(expected)}"
        )
    sizes: dict[str, tuple[int, str]] = {}
    for name, spec in expected.items():
        array = feeds[name]
        if array.dtype.name != spec.dtype:
            raise InputError(f"input {name!r} is {array.dtype.name}; the model takes {spec.dtype}")
        if array.ndim != len(spec.shape):
            raise InputError(
                f"input {name!r} has {array.ndim} axes; the model takes {len(spec.shape)}: "
                f"{_shape(spec)}"
            )
        for axis, size in zip(spec.shape, array.shape, strict=True):
            _check_axis(spec, axis, size, sizes)
    if all(axis in sizes for axis in ("past", "sequence", "total")):
        past, sequence, total = (sizes[axis][0] for axis in ("past", "sequence", "total"))
        if total != past + sequence:
            raise InputError(
                f"input {sizes['total'][1]!r} covers {total} tokens; "
                f"past {past} + sequence {sequence} are {past + sequence}"
            )


def _check_axis(
    spec: TensorSpec, axis: int | str, size: int, sizes: dict[str, tuple[int, str]]
) -> None:
    if isinstance(axis, int):
        if size != axis:
            raise InputError(
                f"input {spec.name!r} has {size} where the model's shape {_shape(spec)} has {axis}"
            )
        return
    known, owner = sizes.setdefault(axis, (size, spec.name))
    if known != size:
        raise InputError(
            f"axis {axis!r} is {size} in input {spec.name!r} and {known} in input {owner!r}"
        )


def _names(expected: dict[str, TensorSpec]) -> str:
    return ", ".join(expected)


def _shape(spec: TensorSpec) -> str:
    return f"({', '.join(map(str, spec.shape))})"
