"""Which of a torch module's matrices are pruned, left as asked, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from compile.artifact import Artifact, Store
from compile.models.model import load_model
from compile.models.resolve import resolve
from compile.models.source import source_artifact
from quantize.audit import PassFailed
from quantize.build import build
from quantize.recipe import recipe_from_table
from quantize.weights import linear_weights

FACTORIES = """
import torch
from torch import nn

def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2), {"src": torch.randn(2, 8, 16)}

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, 16))
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        return self.head(torch.einsum("bi,io->bo", x, self.table))

def own():
    return Own(), {"x": torch.randn(2, 16)}
"""


@pytest.fixture
def prune(tmp_path: Path, store: Store):
    """Prunes half of the model of a factory above, without recovery."""
    (tmp_path / "model.py").write_text(FACTORIES)

    def pruned(factory: str, **parameters) -> Artifact:
        source = source_artifact(resolve(f"model.py:{factory}", base=tmp_path), store)
        recipe = recipe_from_table(
            "r", {"passes": [{"pass": "prune", "steps": 0, **parameters}]}, "test"
        )
        return build(recipe, source, "torch", store, None, lambda _: None)

    return pruned


def test_half_of_all_matrices_of_torchs_own_encoder_is_zero(prune) -> None:
    built = prune("encoder")
    matrices = [p for p in load_model(built.folder).module.parameters() if p.ndim == 2]
    zeros = sum(int((p == 0).sum()) for p in matrices)
    assert zeros / sum(p.numel() for p in matrices) == pytest.approx(0.5, abs=1e-3)
    assert (built.facts["sparsity"], built.facts["weights_share"]) == (0.5, 1.0)
    parts = ["self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"]
    names = [f"layers.{layer}.{part}" for layer in (0, 1) for part in parts]
    assert list(built.facts["sparsity_by_layer"]) == names


def test_matrix_of_a_module_of_ones_own_is_refused_unless_excluded(prune) -> None:
    found = r"found 1 elsewhere, first 'table': \[16, 16\] of Own; .*exclude it by its name"
    with pytest.raises(PassFailed, match=found):
        prune("own")
    built = prune("own", exclude=["table"])
    assert list(built.facts["sparsity_by_layer"]) == ["head"]
    assert built.facts["layers_excluded"] == {"table": "excluded by 'table'"}
    assert built.facts["weights_share"] == round(8 / (8 + 16), 4)


def test_attention_with_keys_of_another_width_has_a_weight_for_each() -> None:
    attention = nn.Sequential(nn.MultiheadAttention(8, 2, kdim=6, vdim=4))
    shapes = {name: list(w.shape) for name, w in linear_weights(attention, ()).linear.items()}
    assert shapes == {
        "0.q_proj_weight": [8, 8],
        "0.k_proj_weight": [8, 6],
        "0.v_proj_weight": [8, 4],
        "0.out_proj": [8, 8],
    }
    spared = linear_weights(attention, ["0", "*.k_proj_weight"])
    assert list(spared.linear) == ["0.out_proj"]
    assert spared.excluded["0.k_proj_weight"] == "excluded by '0'"


def test_conv1d_of_transformers_is_linear_and_another_one_is_not() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 6))

    Other.__name__ = "Conv1D"
    found = linear_weights(nn.Sequential(Conv1D(6, 4), Other()), ())
    assert {name: list(w.shape) for name, w in found.linear.items()} == {"0": [4, 6]}
    assert found.missed == {"1.weight": "[4, 6] of Conv1D"}


@pytest.mark.parametrize(
    ("layer", "missed"),
    [
        (nn.LSTM(4, 3), ["0.weight_ih_l0", "0.weight_hh_l0"]),
        (nn.Conv2d(3, 4, 2), ["0.weight"]),
        (nn.Bilinear(2, 3, 4), ["0.weight"]),
        # Its weight is computed from two parameters in each call: setting it would change nothing.
        (
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
            ["0.parametrizations.weight.original1"],
        ),
        (nn.LayerNorm((3, 4)), []),
        (nn.Embedding(5, 4), []),
        (nn.PReLU(4), []),
    ],
)
def test_what_is_no_linear_layer(layer: nn.Module, missed: list[str]) -> None:
    found = linear_weights(nn.Sequential(layer, nn.Linear(4, 3)), ())
    assert list(found.missed) == missed
    assert list(found.linear) == ["1"]


def test_layer_tied_to_an_embedding_is_not_taken_and_counts_once() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 3))
    module[1].weight = module[0].weight
    found = linear_weights(module, ())
    assert list(found.linear) == ["2"]
    assert found.share == 15 / (15 + 20)


def test_layer_with_one_output_is_linear_and_a_shared_one_is_excluded_by_either_name() -> None:
    module = nn.Sequential(nn.Linear(4, 1), nn.Linear(4, 1), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    assert list(linear_weights(module, ()).linear) == ["0", "2"]
    assert list(linear_weights(module, ["1"]).linear) == ["2"]
