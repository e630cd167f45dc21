"""What the tests of several rooms need."""

from __future__ import annotations

import sys
import types
import venv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

# The scripts are no part of the wheel: they are found beside the tests, and nothing else is.
scripts = types.ModuleType("scripts")
scripts.__path__ = [str(Path(__file__).parents[1] / "scripts")]
sys.modules["scripts"] = scripts

_GPT2 = """
<ir_version: 9, opset_import: ["" : 18]>
decoder (
    int64[batch_size, sequence_length] input_ids,
    int64[batch_size, total_length] attention_mask,
    int64[batch_size, sequence_length] position_ids,
    float[batch_size, 1, past_length, 8] past_key_values_0_key,
    float[batch_size, 1, past_length, 8] past_key_values_0_value
) => (
    float[batch_size, sequence_length, 20] logits,
    float[batch_size, 1, total_length, 8] present_0_key,
    float[batch_size, 1, total_length, 8] present_0_value
)
<
    int64[1] first = {0}, int64[1] second = {1}, int64[2] ends = {1, 2}, int64 none = {0},
    int64 one = {1}, float never = {-10000.0}
>
{
    past = Shape<start = 2, end = 3>(past_key_values_0_key)
    new = Shape<start = 1, end = 2>(input_ids)
    all = Add(past, new)
    begin = Squeeze(past)
    end = Squeeze(all)
    rows = Range(begin, end, one)
    columns = Range(none, end, one)
    word = Gather(words, input_ids)
    place = Gather(places, PLACES)
    x = Add(word, place)
    q = MatMul(x, query)
    k = MatMul(x, key)
    v = MatMul(x, value)
    query_heads = Unsqueeze(q, second)
    key_heads = Unsqueeze(k, second)
    value_heads = Unsqueeze(v, second)
    present_0_key = Concat<axis = 2>(past_key_values_0_key, key_heads)
    present_0_value = Concat<axis = 2>(past_key_values_0_value, value_heads)
    turned = Transpose<perm = [0, 1, 3, 2]>(present_0_key)
    scores = MatMul(query_heads, turned)
    row = Unsqueeze(rows, second)
    column = Unsqueeze(columns, first)
    before = GreaterOrEqual(row, column)
    kept = Cast<to = 9>(attention_mask)
    token = Unsqueeze(kept, ends)
    seen = And(before, token)
    masked = Where(seen, scores, never)
    weights = Softmax<axis = -1>(masked)
    mixed = MatMul(weights, present_0_value)
    context = Squeeze(mixed, second)
    y = Add(x, context)
    logits = MatMul(y, head)
}
"""


@pytest.fixture
def gpt2_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a decoder of one layer, its cache and mask as optimum exports a GPT-2.

    It has a table of ``rows`` positions, and is ``told`` them as ``position_ids`` or counts them
    itself. The weights are the same for both.
    """

    def make(rows: int, *, told: bool) -> Path:
        text = _GPT2.replace("PLACES", "position_ids" if told else "rows")
        model = onnx.parser.parse_model(text)
        if not told:
            del model.graph.input[2]
        random = np.random.default_rng(0)
        shapes = dict.fromkeys(("query", "key", "value"), (8, 8))
        shapes |= {"words": (20, 8), "head": (8, 20), "places": (rows, 8)}
        for name, shape in shapes.items():
            weight = random.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weight, name))
        path = tmp_path / f"gpt2-{rows}-{'told' if told else 'counts'}.onnx"
        onnx.save(model, path)
        return path

    return make


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Path]:
    """Makes another environment, ``tmp_path / "other"``, and gives its interpreter.

    ``packages`` are links to this environment's; nothing else of it can be seen from there.
    ``versions`` are those that the other environment says it has of its distributions.
    """

    def make(*packages: str, **versions: str) -> Path:
        folder = tmp_path / "other"
        venv.create(folder, with_pip=False)
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site_packages = folder / "lib" / python / "site-packages"
        for package in packages:
            spec = find_spec(package)
            assert spec is not None
            assert spec.origin is not None
            installed = Path(spec.origin).parent
            # Wheels keep the shared libraries that they bring in a folder beside the package.
            for part in (installed, installed.with_name(f"{package}.libs")):
                if part.exists():
                    (site_packages / part.name).symlink_to(part)
        for name, version in versions.items():
            about = site_packages / f"{name}-{version}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
        return folder / "bin" / "python"

    return make
