"""Snippets of source code and what they are: the labels of the classification task.

A module's syntax tree says for every stretch of it what it is. The snippet holds the inside
alone; what would give it away is cut off: quotes, the ``def`` line with its name,
indentation, and doc strings and comment lines inside of code.

    constant    an assignment in a module or class
    docstring   of a module, class or function
    function    the body of a function outside of classes
    method      the body of a function in a class
"""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("constant", "docstring", "function", "method")
"""The classes; a label is a position in this tuple."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = ast.Module | ast.ClassDef | _Function


class Snippet(NamedTuple):
    kind: str
    text: str


def snippets(source: str) -> list[Snippet]:
    """All snippets of a module; none where the source is not valid for this Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in somebody else's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    lines = source.split("\n")
    return [snippet for snippet in _of_scope(tree, None, lines) if snippet.text.strip()]


def _of_scope(scope: _Scope, owner: _Scope | None, lines: list[str]) -> Iterator[Snippet]:
    """The snippets of a module, class or function; what a function defines inside is its body."""
    body = scope.body
    if (docstring := ast.get_docstring(scope)) is not None:
        yield Snippet("docstring", docstring)
        body = body[1:]
    if isinstance(scope, _Function):
        if body:
            kind = "method" if isinstance(owner, ast.ClassDef) else "function"
            yield Snippet(kind, _code(body, lines))
        return
    for statement in body:
        if isinstance(statement, ast.ClassDef | _Function):
            yield from _of_scope(statement, scope, lines)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            yield Snippet("constant", _code([statement], lines))


def _code(statements: list[ast.stmt], lines: list[str]) -> str:
    """The statements' lines without comment lines, dedented."""
    first, last = statements[0].lineno, statements[-1].end_lineno
    code = [line for line in lines[first - 1 : last] if not line.lstrip().startswith("#")]
    return textwrap.dedent("\n".join(code))
