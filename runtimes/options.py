"""A runtime's own options: a frozen dataclass filled from the suite's ``[runtimes.NAME]`` table."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from compile.errors import InputError

T = TypeVar("T")


def parse(options_class: type[T], extra: Mapping[str, Any], runtime: str) -> T:
    """``options_class(**extra)`` after a check of names and types.

    Raises InputError that names the runtime, the key, and what is allowed. Understood types are
    ``bool``, ``int``, ``float``, ``str``, ``Literal`` and ``None`` joined by ``|``.
    """
    hints = get_type_hints(options_class)
    allowed = [field.name for field in fields(options_class)]  # type: ignore[arg-type]
    for key, value in extra.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise InputError(f"runtime {runtime!r} has no option {key!r}; its options: {known}")
        if not _fits(value, hints[key]):
            raise InputError(
                f"runtime {runtime!r}, option {key!r}: {value!r} is not {_describe(hints[key])}"
            )
    return options_class(**extra)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint  # bool is an int to isinstance, and TOML tells them apart


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(part) for part in get_args(hint))
    return "nothing" if hint is type(None) else hint.__name__
