from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from compile.errors import InputError
from runtimes import registry
from runtimes.options import parse

HEAVY = ("torch", "onnxruntime", "openvino", "onnx", "transformers")


@dataclass(frozen=True)
class Options:
    level: Literal["low", "high"] = "low"
    count: int = 1
    ratio: float = 0.5
    fast: bool = False
    name: str | None = None


@pytest.mark.parametrize("entry", registry.ENTRIES.values(), ids=lambda entry: entry.name)
def test_an_entry_repeats_what_its_class_says(entry: registry.Entry) -> None:
    runtime = entry.load()
    assert (runtime.name, runtime.kinds, runtime.device) == (entry.name, entry.kinds, entry.device)


def test_loading_every_runtime_imports_none_of_the_packages() -> None:
    code = (
        "import sys; from runtimes import registry, client, doctor\n"
        "for entry in registry.ENTRIES.values(): entry.load()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_hides_the_fake_runtime_and_entry_finds_it() -> None:
    assert "fake" not in registry.names()
    assert registry.entry("fake").accepts("onnx")
    assert not registry.entry("openvino").accepts("torch")


def test_entry_suggests_near_names_when_the_name_is_unknown() -> None:
    with pytest.raises(InputError, match="unknown runtime 'onnxruntime'; did you mean onnxruntime"):
        registry.entry("onnxruntime")
    with pytest.raises(InputError, match="there are torch-eager, torch-compile"):
        registry.entry("zzz")


def test_parse_fills_the_options() -> None:
    extra = {"level": "high", "count": 3, "ratio": 1, "fast": True, "name": "x"}
    assert parse(Options, extra, "r") == Options("high", 3, 1, True, "x")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"speed": 1}, "runtime 'r' has no option 'speed'; its options: level, count"),
        ({"level": "mid"}, "option 'level': 'mid' is not one of 'low', 'high'"),
        ({"count": True}, "option 'count': True is not int"),
        ({"count": 1.0}, "option 'count': 1.0 is not int"),
        ({"fast": 1}, "option 'fast': 1 is not bool"),
        ({"ratio": "x"}, "option 'ratio': 'x' is not float"),
        ({"name": 3}, "option 'name': 3 is not str or nothing"),
    ],
)
def test_parse_names_the_key_when_an_option_is_wrong(
    extra: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        parse(Options, extra, "r")
