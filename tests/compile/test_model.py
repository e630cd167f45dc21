from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compile.errors import Corrupted, InputError
from compile.models import zoo
from compile.models.adapter import named_outputs
from compile.models.model import load_model, load_weights, save_model, transformer_model


def encoder() -> object:
    return transformer_model("small", zoo.config("encoder-small", classes=4), seed=7)


def outputs(model: object) -> torch.Tensor:
    feeds = model.signature.feeds({"batch": 2, "sequence": 5})
    with torch.no_grad():
        return model.module(*(torch.from_numpy(feeds[s.name]) for s in model.signature.inputs))[0]


def test_a_saved_model_loads_with_the_same_outputs(tmp_path: Path) -> None:
    model = encoder()
    made = save_model(model, tmp_path, {"loss": 0.5})
    again = load_model(tmp_path)
    assert torch.equal(outputs(model), outputs(again))
    assert again.signature == model.signature == made.signature
    assert (again.name, again.task, again.origin) == (model.name, model.task, model.origin)
    assert made.facts["loss"] == 0.5
    assert made.facts["parameters"] == sum(p.numel() for p in model.module.parameters())


def test_loading_does_not_initialise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(encoder(), tmp_path)
    written = []
    monkeypatch.setattr(torch.Tensor, "normal_", lambda *a, **k: written.append(a))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda *a, **k: written.append(a))
    before = torch.get_rng_state()
    model = load_model(tmp_path)
    assert all(p.device.type == "cpu" for p in model.module.parameters())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_type_of_the_weights_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    model = encoder().to(dtype)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    name = str(dtype).removeprefix("torch.")
    assert {p.dtype for p in again.module.parameters()} == {dtype}
    assert again.signature.outputs[0].dtype == name
    assert again.signature.inputs[0].dtype == "int64"
    assert outputs(again).dtype == dtype


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight
        # Two views of one storage are not the same tensor.
        whole = torch.arange(6.0)
        self.register_buffer("left", whole[:3])
        self.register_buffer("right", whole[3:])


def test_tied_weights_are_written_once_and_tied_again(tmp_path: Path) -> None:
    from compile.models.model import _save_weights

    module, path = Tied(), tmp_path / "w.safetensors"
    _save_weights(module, path)
    assert sorted(load_file(path)) == ["left", "right", "table.weight"]
    with torch.device("meta"):
        again = Tied()
    load_weights(again, path)
    assert again.head.weight is again.table.weight
    assert torch.equal(again.table.weight, module.table.weight)
    assert again.right.tolist() == [3.0, 4.0, 5.0]
    assert again.table.weight.requires_grad


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no torch model"):
        load_model(tmp_path)
    (tmp_path / "origin.json").write_text("[]")
    with pytest.raises(InputError, match="holds no torch model"):
        load_model(tmp_path)


def test_weights_that_are_cut_short_or_of_another_model_are_corrupted(tmp_path: Path) -> None:
    save_model(encoder(), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Corrupted, match=r"model\.safetensors"):
        load_model(tmp_path)
    path.write_bytes(whole)
    description = json.loads((tmp_path / "origin.json").read_text())
    description["origin"]["config"]["layers"] = 3
    (tmp_path / "origin.json").write_text(json.dumps(description))
    with pytest.raises(Corrupted, match=r"layers\.3"):
        load_model(tmp_path)


def test_a_pickle_in_place_of_weights_is_not_executed(tmp_path: Path) -> None:
    save_model(encoder(), tmp_path)
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (marker,))

    torch.save({"w": Evil()}, tmp_path / "model.safetensors")
    with pytest.raises(Corrupted):
        load_model(tmp_path)
    assert not marker.exists()


def test_outputs_are_named_by_key_or_by_place() -> None:
    one, two = torch.ones(1), torch.zeros(2)
    assert list(named_outputs(one)) == ["output"]
    assert list(named_outputs([one, two])) == ["output_0", "output_1"]
    assert list(named_outputs({"b": one, "loss": None, "a": two})) == ["b", "a"]
    for wrong in (3, None, (one, "text"), {}, ()):
        with pytest.raises(TypeError):
            named_outputs(wrong)
