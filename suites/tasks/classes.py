"""Which class of a model each label of the data is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from compile.errors import InputError

SHOWN = 6
"""Names of a list that a message shows."""

_WHOLE = re.compile(r"-?\d{1,18}(\.0+)?")


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """The different labels, whole numbers by their value, anything else as text."""
    found = sorted(set(labels))
    values = _values(found)
    if values is None:
        return tuple(found)
    return tuple(label for _, label in sorted(zip(values, found, strict=True)))


def classes_of(
    labels: Sequence[str], model: Sequence[str], listed: Sequence[str], count: int | None
) -> tuple[int, ...]:
    """The class of each of ``labels``, which are ``in_order``.

    ``model`` are the model's own names of its classes and ``listed`` the user's, both in the order
    of the logits and empty where there are none; ``count`` is how many classes the model has, None
    where it does not say. The first of these that holds for all labels decides:

    1. they are among the model's names, or among the listed ones;
    2. they are whole numbers in 0..count-1: label k is class k;
    3. as 1, whatever the case of the letters;
    4. nobody named the classes and there are as many: the labels' own order.

    Raises InputError where none does, or where the names are not as many as the classes.
    """
    named = [names for names in (model, listed) if names]
    for names in named:
        if set(labels) <= set(names):
            return _by_name(labels, names, count)
    values = _values(labels)
    if values and min(values) >= 0 and (count is None or max(values) < count):
        return tuple(values)
    folded = [label.casefold() for label in labels]
    for names in named:
        alike = [name.casefold() for name in names]
        if set(folded) <= set(alike) and len(set(alike)) == len(alike):
            return _by_name(folded, alike, count)
    if named or count not in (None, len(labels)):
        raise InputError(_refusal(labels, model, listed, count))
    return tuple(range(len(labels)))


def _by_name(labels: Sequence[str], names: Sequence[str], count: int | None) -> tuple[int, ...]:
    if count not in (None, len(names)):
        raise InputError(f"{_shown(names)} are {len(names)} names for the model's {count} classes")
    return tuple(names.index(label) for label in labels)


def _values(labels: Sequence[str]) -> list[int] | None:
    """What the labels are worth, None unless all are whole numbers and no two the same."""
    if not all(_WHOLE.fullmatch(label) for label in labels):
        return None
    values = [int(label.partition(".")[0]) for label in labels]
    return values if len(set(values)) == len(values) else None


def _refusal(
    labels: Sequence[str], model: Sequence[str], listed: Sequence[str], count: int | None
) -> str:
    known = {name.casefold() for name in (*model, *listed)}
    strange = next((label for label in labels if label.casefold() not in known), labels[0])
    classes = f"{count} classes" if count is not None else "classes"
    if model:
        classes += f", {_shown(model)}"
    message = f"labels {_shown(labels)} are not those of the model, which has {classes}"
    if listed:
        return f"{message}; labels = [{_shown(listed)}] lacks {strange!r}"
    return f'{message}; name the data\'s labels in the order of the classes: labels = ["...", ...]'


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:SHOWN])
    return f"{shown}, ... ({len(names)})" if len(names) > SHOWN else shown
