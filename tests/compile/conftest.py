from __future__ import annotations

import pytest

from compile.artifact import Artifact, Step, Store
from compile.export import export_onnx
from compile.models.config import TransformerConfig
from compile.models.model import save_model, transformer_model

TINY = {"width": 32, "layers": 2, "heads": 4, "ffn": 48, "vocabulary": 90, "max_sequence": 40}


def _source(store: Store, config: TransformerConfig) -> Artifact:
    step = Step("source", 1, {"config": config.to_json()})
    return store.derive(
        step, None, lambda folder: save_model(transformer_model("tiny", config, seed=1), folder)
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def encoder(store: Store) -> Artifact:
    """A tiny BERT-style classifier, torch."""
    config = TransformerConfig(kind="encoder", kv_heads=4, segments=2, classes=3, **TINY)
    return _source(store, config)


@pytest.fixture(scope="session")
def decoder(store: Store) -> Artifact:
    """A tiny LLaMA-style language model with grouped queries and a tied head, torch."""
    config = TransformerConfig(
        kind="decoder",
        head="causal-lm",
        kv_heads=2,
        position="rotary",
        norm="rmsnorm",
        norm_first=True,
        activation="swiglu",
        bias=False,
        eps=1e-5,
        **TINY,
    )
    return _source(store, config)


@pytest.fixture(scope="session")
def encoder_onnx(encoder: Artifact, store: Store) -> Artifact:
    return export_onnx(encoder, store)


@pytest.fixture(scope="session")
def decoder_onnx(decoder: Artifact, store: Store) -> Artifact:
    return export_onnx(decoder, store)
