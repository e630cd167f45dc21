"""What ONNX Runtime's errors say, without where in its own source they were raised."""

from __future__ import annotations

import re

_LONGEST = 400
"""Characters of a reason: it is one line of a report."""

_HEAD = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_LOADING = re.compile(r"Load model from .*? failed: ?")
_SOURCE = re.compile(r"\S+\.(?:cc|cpp|cuh?|h|hpp):\d+ ")
_AFTER_FUNCTION = re.compile(
    r"(?: const)?(?:::<lambda\([^)]*\)>)?(?: const)?(?: \[with [^\]]*\])? "
)


def ort_reason(error: BaseException) -> str:
    """The error in one line, as short as it can be without losing what it says."""
    text = _HEAD.sub("", " ".join(str(error).split()))
    text = _LOADING.sub("", text, count=1)
    text = text.removeprefix("Fatal error: ").replace("(-1) is not a reg", " is not a reg")
    while place := _SOURCE.search(text):
        text = text[: place.start()] + _after_function(text[place.end() :])
    return text[:_LONGEST]


def _after_function(text: str) -> str:
    """What follows the C++ function that a text begins with: its message."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth:
            rest = text[index + 1 :]
            end = _AFTER_FUNCTION.match(rest)
            return rest[end.end() :] if end else rest.lstrip()
    return text
