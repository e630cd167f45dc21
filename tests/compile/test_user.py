from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from compile.artifact import Artifact, Store
from compile.errors import Incorrect, InputError
from compile.export import export_onnx, run_torch
from compile.models.adapter import run_named
from compile.models.model import load_model
from compile.models.resolve import resolve
from compile.models.source import source_artifact

GOOD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, ids, scale):
        hidden = self.embed(ids) * scale
        return {"logits": self.out(hidden.mean(1)), "tokens": hidden, "loss": None}

def factory():
    inputs = {"ids": torch.arange(10).reshape(2, 5), "scale": torch.tensor(2.0)}
    return Net(), inputs, "text-classification", {"ids": ("batch", "sequence"), "scale": ()}
"""


def source(folder: Path, code: str, reference: str = "m.py:factory") -> Artifact:
    (folder / "m.py").write_text(code)
    return source_artifact(resolve(reference, base=folder), Store(folder / "store"))


def test_a_users_model_is_stored_rebuilt_and_exported(tmp_path: Path) -> None:
    artifact = source(tmp_path, GOOD)
    model = load_model(artifact.folder)
    assert model.task == "text-classification"
    ids, scale = model.signature.inputs
    assert (ids.shape, ids.dtype, ids.high) == (("batch", "sequence"), "int64", 10)
    assert (scale.shape, scale.dtype) == ((), "float32")
    shapes = {spec.name: spec.shape for spec in model.signature.outputs}
    assert shapes == {"logits": ("batch", 4), "tokens": ("batch", "sequence", 6)}
    exported = export_onnx(artifact, Store(tmp_path / "store"))
    feeds = {"ids": np.array([[1, 10, 3]] * 4), "scale": np.array(0.5, np.float32)}
    session = onnxruntime.InferenceSession(
        str(exported.folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    state = {
        name: value.double().numpy() for name, value in model.module.inner.state_dict().items()
    }
    hidden = state["embed.weight"][feeds["ids"]] * 0.5
    want = hidden.mean(1) @ state["out.weight"].T + state["out.bias"]
    logits, tokens = session.run(["logits", "tokens"], feeds)
    np.testing.assert_allclose(logits, want, atol=1e-6)
    np.testing.assert_allclose(tokens, hidden, atol=1e-6)


def test_without_axes_the_first_one_is_the_batch_and_random_weights_are_the_same(
    tmp_path: Path,
) -> None:
    code = (
        "import torch\n"
        "def factory():\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 2)), {'input': torch.ones(1, 3)}\n"
    )
    first = source(tmp_path, code)
    torch.manual_seed(99)
    assert source(tmp_path, code).key == first.key
    model = load_model(first.folder)
    assert model.task is None
    assert model.signature.inputs[0].shape == ("batch", 3)
    assert [(s.name, s.shape) for s in model.signature.outputs] == [("output", ("batch", 2))]
    (output,) = run_torch(model, {"input": np.zeros((5, 3), np.float32)})
    np.testing.assert_allclose(output, np.tile(model.module.inner[0].bias.detach(), (5, 1)))


def test_saved_weights_win_over_what_the_factory_makes(tmp_path: Path) -> None:
    code = GOOD.replace("return Net()", "torch.seed()\n    return Net()")
    artifact = source(tmp_path, code)
    first, again = load_model(artifact.folder), load_model(artifact.folder)
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name])


def test_a_factory_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "layers_beside.py").write_text("WIDTH = 3\n")
    code = (
        "import torch\nfrom layers_beside import WIDTH\n"
        "def factory():\n"
        "    return torch.nn.Linear(WIDTH, 2), {'input': torch.ones(2, WIDTH)}\n"
    )
    assert source(tmp_path, code).signature.inputs[0].shape == ("batch", 3)


def test_a_file_that_changed_since_is_not_run(tmp_path: Path) -> None:
    artifact = source(tmp_path, GOOD)
    marker = tmp_path / "executed"
    (tmp_path / "m.py").write_text(f"open({str(marker)!r}, 'w')\n" + GOOD)
    with pytest.raises(InputError, match=r"m\.py is gone or was changed"):
        load_model(artifact.folder)
    assert not marker.exists()


NET = "import torch\nnet = torch.nn.Linear(3, 2)\nx = {'input': torch.ones(2, 3)}\n"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_model_whose_own_outputs_are_not_finite_is_told_so(tmp_path: Path, value: str) -> None:
    code = GOOD.replace("self.out(hidden.mean(1))", f"self.out(hidden.mean(1)) + float('{value}')")
    artifact = source(tmp_path, code)
    with pytest.raises(Incorrect, match="the model's own output 'logits' is not finite at batch=1"):
        export_onnx(artifact, Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def other(): pass", "the file has no function 'factory'"),
        ("factory = 3", "raised TypeError: 'int' object is not callable"),
        ("def factory(", "cannot be imported: SyntaxError"),
        ("import absent_module_xyz", "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("def factory(): raise ValueError('two\\nlines')", "raised ValueError: two"),
        ("def factory(needed): pass", "raised TypeError"),
        ("def factory(): return 5", "returned a int; it has to return"),
        ("def factory(): return (1, 2, 3, 4, 5)", "returned a tuple; it has to return"),
        (NET + "def factory(): return x, x", "first value is a dict, not a torch module"),
        (NET + "def factory(): return net, [1]", "inputs are a list, not a dict"),
        (NET + "def factory(): return net, {}", "inputs are a dict, not a dict of named"),
        (NET + "def factory(): return net, {'input': [1.0]}", "'input' is a list, not a tensor"),
        (NET + "def factory(): return net, x, 3", "the task is a int, not a string"),
        (NET + "def factory(): return net, x, None, 3", "the axes are a int, not a dict"),
        (NET + "def factory(): return net, x, None, {'y': ()}", "axes name an input 'y'"),
        (NET + "def factory(): return net, x, None, {'input': ('batch',)}", "it has 2 of them"),
        (NET + "def factory(): return net, {'y': torch.ones(2, 3)}", "fails on its own inputs"),
        (NET + "def factory(): return net, {'input': torch.ones(2, 4)}", "own inputs: Runtime"),
        (NET + "def factory(): return net, {'input': torch.ones(0, 3)}", "'input' is empty"),
        (
            NET + "def factory(): return net, {'input': torch.tensor(1.0)}",
            "has no axis, so no batch",
        ),
        (
            NET + "def factory(): return net, {'input': torch.ones(2, 3).bfloat16()}",
            "has type bfloat16",
        ),
        (
            NET + "def factory(): return net, x, None, {'input': ('batch', 'width')}",
            "fails on width = 1",
        ),
        (
            NET + "class N(torch.nn.Module):\n    def forward(self, input): return 'text'\n"
            "def factory(): return N(), x",
            "its output is a str, not a tensor",
        ),
        (NET + "def factory(): return net, x, 'nosuchtask'", "unknown task 'nosuchtask'"),
    ],
)
def test_every_mistake_is_told_in_one_line_that_names_the_file(
    tmp_path: Path, code: str, told: str
) -> None:
    with pytest.raises(InputError, match=told.replace("(", r"\(")) as caught:
        source(tmp_path, code + "\n")
    message = str(caught.value)
    assert str(tmp_path / "m.py") in message
    assert "\n" not in message


def test_a_factory_and_a_suite_have_to_agree_what_the_model_is_for(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(GOOD)
    store = Store(tmp_path / "store")
    for task in ("classification", "text-classification"):
        reference = resolve("m.py:factory", base=tmp_path, task=task)
        assert load_model(source_artifact(reference, store).folder).task == "text-classification"
    reference = resolve("m.py:factory", base=tmp_path, task="causal-lm")
    with pytest.raises(InputError, match="is for text-classification, the suite for text-generat"):
        source_artifact(reference, store)


HELPED = """
import torch
from helper_{n} import act
from parts_{n} import layer

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = layer()

    def forward(self, x):
        return act(self.layer(x))

def factory():
    return Net(), {{"x": torch.ones(2, 3)}}
"""


def test_a_key_holds_what_the_file_imports_from_beside_it(tmp_path: Path) -> None:
    (tmp_path / "helper_1.py").write_text("from torch.nn.functional import relu as act\n")
    (tmp_path / "parts_1").mkdir()
    parts = tmp_path / "parts_1" / "__init__.py"
    parts.write_text("import torch\ndef layer(): return torch.nn.Linear(3, 2)\n")
    code = HELPED.format(n=1)
    first = source(tmp_path, code)
    assert source(tmp_path, code).key == first.key
    load_model(first.folder)
    (tmp_path / "helper_1.py").write_text("from torch.nn.functional import gelu as act  #\n")
    second = source(tmp_path, code)
    assert second.key != first.key
    ones = {"x": np.ones((1, 3), np.float32)}
    inner = load_model(second.folder).module.inner.layer(torch.ones(1, 3))
    told = run_named(load_model(second.folder).module, ones)["output"]
    np.testing.assert_allclose(told.detach(), torch.nn.functional.gelu(inner).detach(), atol=1e-6)
    with pytest.raises(InputError, match=r"helper_1\.py is gone or was changed"):
        load_model(first.folder)


def test_two_folders_with_a_module_of_one_name_have_each_their_own(tmp_path: Path) -> None:
    outputs = []
    for folder, act in (("a", "relu"), ("b", "tanh")):
        (tmp_path / folder / "parts_2").mkdir(parents=True)
        (tmp_path / folder / "parts_2" / "__init__.py").write_text(
            "import torch\ndef layer(): return torch.nn.Linear(3, 2)\n"
        )
        (tmp_path / folder / "helper_2.py").write_text(f"from torch import {act} as act\n")
        artifact = source(tmp_path / folder, HELPED.format(n=2))
        feeds = {"x": np.full((1, 3), 2, np.float32)}
        outputs.append(run_named(load_model(artifact.folder).module, feeds)["output"])
    assert not torch.allclose(*outputs)
