"""SVG and HTML written by hand: one function that escapes everything it is given."""

from __future__ import annotations

from html import escape

_UNPRINTABLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32)), "�")


class Markup(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def element(tag: str, *children: str | None, **attributes: object) -> Markup:
    """``<tag ...>children</tag>``, with every child that is not Markup and every value escaped.

    Attributes spell ``_`` for ``-``, and a trailing one is dropped (``class_``). None leaves an
    attribute or a child out; floats are rounded to two decimals.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {name}")
        else:
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
            parts.append(f' {name}="{text(str(shown))}"')
    if tag in ("br", "hr", "input", "meta"):
        return Markup("".join(parts) + ">")
    inner = "".join(text(child) for child in children if child is not None)
    return Markup(f"{''.join(parts)}>{inner}</{tag}>")


def text(value: str) -> Markup:
    """``value`` with what HTML would read as markup escaped, unless it is Markup."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(value.translate(_UNPRINTABLE), quote=True))


def join(parts: list[Markup]) -> Markup:
    return Markup("".join(parts))
