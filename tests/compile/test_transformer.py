"""Our transformer against transformers' BERT, GPT-2 and LLaMA with the same weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from compile.errors import InputError
from compile.models.config import TransformerConfig
from compile.models.model import transformer_model
from compile.models.positions import rotary, rotate, sinusoidal, token_positions
from compile.models.transformer import Transformer

SMALL = {"width": 32, "layers": 2, "heads": 4, "ffn": 48, "vocabulary": 90, "max_sequence": 24}


def bert_config(**others: object) -> TransformerConfig:
    settings = {"kind": "encoder", "kv_heads": 4, "segments": 2, "classes": 3, **SMALL, **others}
    return TransformerConfig(**settings)


def llama_config(**others: object) -> TransformerConfig:
    settings = {
        "kind": "decoder",
        "head": "causal-lm",
        "kv_heads": 2,
        "position": "rotary",
        "norm": "rmsnorm",
        "norm_first": True,
        "activation": "swiglu",
        "bias": False,
        "tied_head": False,
        "eps": 1e-5,
        **SMALL,
    }
    return TransformerConfig(**{**settings, **others})


def theirs_bert(cls: type, **others: object) -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
        initializer_range=0.3,
        **others,
    )
    return randomised(cls(config))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms too get values that would show if they were confused."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    return module.eval()


def from_bert(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    new = {}
    for ours, name in (("tokens", "word"), ("positions", "position"), ("segments", "token_type")):
        new[f"embedding.{ours}.weight"] = state[f"bert.embeddings.{name}_embeddings.weight"]
    pairs = {"embedding.norm": "bert.embeddings.LayerNorm"}
    for i in range(layers):
        here, there = f"layers.{i}", f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            pairs[f"{here}.attention.{part}"] = f"{there}.attention.self.{part}"
        pairs[f"{here}.attention.output"] = f"{there}.attention.output.dense"
        pairs[f"{here}.attention_norm"] = f"{there}.attention.output.LayerNorm"
        pairs[f"{here}.feed_forward.up"] = f"{there}.intermediate.dense"
        pairs[f"{here}.feed_forward.down"] = f"{there}.output.dense"
        pairs[f"{here}.feed_forward_norm"] = f"{there}.output.LayerNorm"
    if "classifier.weight" in state:
        pairs |= {"pooler.dense": "bert.pooler.dense", "head.dense": "classifier"}
    else:
        pairs["head.dense"] = "cls.predictions.transform.dense"
        pairs["head.norm"] = "cls.predictions.transform.LayerNorm"
        new["head.bias"] = state["cls.predictions.bias"]
    for ours, name in pairs.items():
        new[f"{ours}.weight"], new[f"{ours}.bias"] = state[f"{name}.weight"], state[f"{name}.bias"]
    return new


def ours_with(config: TransformerConfig, state: dict[str, torch.Tensor]) -> Transformer:
    module = Transformer(config)
    module.load_state_dict(state, strict=True)
    return module.eval()


def text(batch: int, sequence: int) -> torch.Tensor:
    return torch.randint(0, 90, (batch, sequence), generator=torch.Generator().manual_seed(1))


def no_past(config: TransformerConfig, batch: int) -> list[torch.Tensor]:
    return [torch.empty(batch, config.kv_heads, 0, config.head_size)] * (2 * config.layers)


@pytest.mark.parametrize("head", ["classification", "masked-lm"])
def test_encoder_equals_bert_when_given_its_weights(head: str) -> None:
    if head == "classification":
        config = bert_config()
        theirs = theirs_bert(transformers.BertForSequenceClassification, num_labels=3)
    else:
        config = bert_config(head=head, classes=0)
        theirs = theirs_bert(transformers.BertForMaskedLM)
    ours = ours_with(config, from_bert(theirs.state_dict(), config.layers))
    ids = text(3, 11)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    segments = (torch.arange(11) > 4).long().expand(3, -1).contiguous()
    with torch.no_grad():
        (logits,) = ours(ids, mask, segments)
        want = theirs(input_ids=ids, attention_mask=mask, token_type_ids=segments).logits
    torch.testing.assert_close(logits, want, atol=1e-5, rtol=1e-5)


def test_decoder_equals_gpt2_when_given_its_weights() -> None:
    settings = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_inner=48, vocab_size=90, n_positions=24
    )
    theirs = randomised(transformers.GPT2LMHeadModel(settings))
    config = llama_config(
        kv_heads=4,
        position="learned",
        norm="layernorm",
        activation="gelu-tanh",
        bias=True,
        tied_head=True,
    )
    state, new = theirs.state_dict(), {}
    new["embedding.tokens.weight"] = state["transformer.wte.weight"]
    new["embedding.positions.weight"] = state["transformer.wpe.weight"]
    pairs = {"final_norm": "transformer.ln_f"}
    for i in range(2):
        here, there = f"layers.{i}", f"transformer.h.{i}"
        # Their Conv1D keeps (in, out), and query, key and value side by side.
        weights = state[f"{there}.attn.c_attn.weight"].T.chunk(3)
        biases = state[f"{there}.attn.c_attn.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            new[f"{here}.attention.{part}.weight"] = weight
            new[f"{here}.attention.{part}.bias"] = bias
        linear = {
            "attention.output": "attn.c_proj",
            "feed_forward.up": "mlp.c_fc",
            "feed_forward.down": "mlp.c_proj",
        }
        for ours, name in linear.items():
            new[f"{here}.{ours}.weight"] = state[f"{there}.{name}.weight"].T
            new[f"{here}.{ours}.bias"] = state[f"{there}.{name}.bias"]
        pairs[f"{here}.attention_norm"] = f"{there}.ln_1"
        pairs[f"{here}.feed_forward_norm"] = f"{there}.ln_2"
    for ours, name in pairs.items():
        new[f"{ours}.weight"], new[f"{ours}.bias"] = state[f"{name}.weight"], state[f"{name}.bias"]
    module, ids = ours_with(config, new), text(2, 13)
    with torch.no_grad():
        logits, *_ = module(ids, torch.ones_like(ids), *no_past(config, 2))
        want = theirs(input_ids=ids).logits
    torch.testing.assert_close(logits, want, atol=1e-5, rtol=1e-5)


def llama_pair() -> tuple[Transformer, torch.nn.Module]:
    settings = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=90,
        max_position_embeddings=24,
        rms_norm_eps=1e-5,
    )
    theirs = randomised(transformers.LlamaForCausalLM(settings))
    state, config = theirs.state_dict(), llama_config()
    new = {
        "embedding.tokens.weight": state["model.embed_tokens.weight"],
        "final_norm.weight": state["model.norm.weight"],
        "head.dense.weight": state["lm_head.weight"],
    }
    for i in range(2):
        here, there = f"layers.{i}", f"model.layers.{i}"
        pairs = {
            "attention.query": "self_attn.q_proj",
            "attention.key": "self_attn.k_proj",
            "attention.value": "self_attn.v_proj",
            "attention.output": "self_attn.o_proj",
            "feed_forward.gate": "mlp.gate_proj",
            "feed_forward.up": "mlp.up_proj",
            "feed_forward.down": "mlp.down_proj",
            "attention_norm": "input_layernorm",
            "feed_forward_norm": "post_attention_layernorm",
        }
        for ours, name in pairs.items():
            new[f"{here}.{ours}.weight"] = state[f"{there}.{name}.weight"]
    return ours_with(config, new), theirs


def test_decoder_equals_llama_with_grouped_queries_when_given_its_weights() -> None:
    module, theirs = llama_pair()
    ids = text(2, 13)
    with torch.no_grad():
        logits, *presents = module(ids, torch.ones_like(ids), *no_past(module.config, 2))
        want = theirs(input_ids=ids, use_cache=True)
    torch.testing.assert_close(logits, want.logits, atol=1e-5, rtol=1e-5)
    for layer, cached in enumerate(want.past_key_values.layers):
        torch.testing.assert_close(presents[2 * layer], cached.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(presents[2 * layer + 1], cached.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_decoding_token_by_token_equals_the_full_forward(position: str) -> None:
    config = llama_config(position=position)
    module = transformer_model("m", config, seed=3).module
    ids = text(2, 9)
    with torch.no_grad():
        whole, *presents = module(ids, torch.ones_like(ids), *no_past(config, 2))
        past, steps = no_past(config, 2), []
        for i in range(9):
            logits, *past = module(ids[:, i : i + 1], torch.ones(2, i + 1).long(), *past)
            steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-5)
    for got, want in zip(past, presents, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_left_padding_changes_nothing_for_the_text_behind_it() -> None:
    config = llama_config()
    module = transformer_model("m", config).module
    ids = text(1, 6)
    padded = torch.cat((torch.zeros(1, 4).long(), ids), 1)
    mask = torch.cat((torch.zeros(1, 4), torch.ones(1, 6)), 1).long()
    with torch.no_grad():
        want, *_ = module(ids, torch.ones_like(ids), *no_past(config, 1))
        got, *presents = module(padded, mask, *no_past(config, 1))
        following = torch.cat((mask, torch.ones(1, 1).long()), 1)
        last, *_ = module(ids[:, :1], following, *presents)
        longer = torch.cat((ids, ids[:, :1]), 1)
        want_last, *_ = module(longer, torch.ones_like(longer), *no_past(config, 1))
    torch.testing.assert_close(got[:, 4:], want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last[:, -1], want_last[:, -1], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(got).all()


def test_a_decoder_never_sees_later_tokens() -> None:
    config = llama_config()
    module = transformer_model("m", config).module
    ids = text(1, 8)
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 90
    mask = torch.ones_like(ids)
    with torch.no_grad():
        before, *_ = module(ids, mask, *no_past(config, 1))
        after, *_ = module(changed, mask, *no_past(config, 1))
    torch.testing.assert_close(before[:, :5], after[:, :5], atol=0, rtol=0)
    assert not torch.equal(before[:, 5:], after[:, 5:])


def test_hidden_states_are_the_embeddings_and_each_layers_output() -> None:
    config = bert_config()
    module = transformer_model("m", config).module
    ids, outputs = text(2, 5), []
    for layer in module.layers:
        layer.register_forward_hook(lambda _m, _i, output: outputs.append(output[0]))
    hidden: list[torch.Tensor] = []
    mask = torch.ones_like(ids)
    with torch.no_grad():
        module(ids, mask, torch.zeros_like(ids), hidden=hidden)
        embedded = module.embedding(ids, torch.arange(5)[None], torch.zeros_like(ids))
    assert len(hidden) == config.layers + 1
    assert torch.equal(hidden[0], embedded)
    for got, want in zip(hidden[1:], outputs, strict=True):
        assert torch.equal(got, want)


def test_rotary_turns_each_pair_by_position_times_frequency() -> None:
    head_size, theta, position = 6, 100.0, 7
    x = np.random.default_rng(0).standard_normal(head_size)
    cos, sin = rotary(torch.tensor([[position]]), head_size, theta)
    got = rotate(torch.tensor(x, dtype=torch.float32).view(1, 1, 1, -1), cos, sin).flatten()
    want = np.empty(head_size)
    for i in range(3):
        angle = position * theta ** (-2 * i / head_size)
        want[i] = x[i] * np.cos(angle) - x[i + 3] * np.sin(angle)
        want[i + 3] = x[i + 3] * np.cos(angle) + x[i] * np.sin(angle)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-6)


def test_sinusoidal_equals_the_formula_of_the_paper() -> None:
    got = sinusoidal(torch.tensor([[0, 3, 11]]), 8).numpy()
    want = np.zeros((1, 3, 8))
    for row, p in enumerate((0, 3, 11)):
        for i in range(4):
            want[0, row, 2 * i] = np.sin(p / 10000 ** (2 * i / 8))
            want[0, row, 2 * i + 1] = np.cos(p / 10000 ** (2 * i / 8))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_positions_count_unmasked_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert token_positions(mask, 3).tolist() == [[0, 1, 2], [2, 3, 4]]


def test_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    first, again, other = (transformer_model("m", bert_config(), seed=s).module for s in (1, 1, 2))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        if name.endswith("weight") and "norm" not in name:
            assert not torch.equal(weight, other.state_dict()[name])


def test_initial_weights_have_the_published_spread() -> None:
    module = transformer_model("m", bert_config(vocabulary=5000)).module
    assert module.embedding.tokens.weight.std().item() == pytest.approx(0.02, rel=0.02)
    scaled = module.layers[0].feed_forward.down.weight.std().item()
    assert scaled == pytest.approx(0.02 / 2, rel=0.1)
    assert not module.layers[0].attention.query.bias.any()
    assert (module.embedding.norm.weight == 1).all()


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_heads_that_look_near_score_a_key_by_its_distance_alone(kv_heads: int) -> None:
    config = bert_config(
        position="rotary",
        rope_theta=100.0,
        initial_locality=1.5,
        initial_std=0.05,
        kv_heads=kv_heads,
    )
    module = transformer_model("m", config, seed=3).module
    assert module.embedding.tokens.weight.std().item() == pytest.approx(0.05, rel=0.05)
    attention = module.layers[0].attention
    positions = torch.arange(12).unsqueeze(0)
    cos, sin = rotary(positions, config.head_size, config.rope_theta)
    near = attention.key.bias.detach().reshape(kv_heads, 1, config.head_size)
    near = near.repeat_interleave(4 // kv_heads, 0)
    torch.testing.assert_close(attention.query.bias.detach().reshape(near.shape), near)
    rotated = rotate(near.expand(-1, 12, -1)[None], cos, sin)[0]
    scores = (rotated @ rotated.transpose(1, 2)).double().numpy()
    # The formula in float64: sum over the pairs of |b|^2 cos(distance * theta^(-2 i / size)).
    vectors, half = near[:, 0].double().numpy(), config.head_size // 2
    energy = vectors[:, :half] ** 2 + vectors[:, half:] ** 2
    frequency = 100.0 ** (-np.arange(half) / half)
    distance = np.abs(np.arange(12)[:, None] - np.arange(12))
    expected = np.einsum("hi,ijk->hjk", energy, np.cos(frequency[:, None, None] * distance))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert (scores.argmax(-1) == np.arange(12)).all()
    for layer in module.layers[1:]:
        assert not torch.equal(layer.attention.key.bias, attention.key.bias)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 30}, "width = 30 does not divide among heads = 4"),
        ({"kv_heads": 3}, "heads = 4 do not share kv_heads = 3"),
        ({"classes": 0}, "needs the number of classes"),
        ({"head": "causal-lm", "classes": 0}, "encoder cannot have a causal-lm head"),
        ({"position": "alibi"}, "position = 'alibi' is not one of learned, sinusoidal, rotary"),
        ({"layers": 0}, "layers has to be at least 1"),
        ({"layers": True}, "layers = True has to be a whole number"),
        ({"ffn": -1}, "ffn = -1 has to be a whole number"),
        ({"eps": 0.0}, "eps, rope_theta and initial_std have to be above 0"),
        ({"initial_std": 0.0}, "initial_std have to be above 0"),
        ({"initial_locality": -1.0, "position": "rotary"}, "initial_locality has to be 0 or more"),
        ({"initial_locality": 1.0}, "initial_locality needs rotary positions and biases"),
        ({"position": "rotary", "width": 12, "heads": 4}, "even head size"),
    ],
)
def test_config_is_refused_when_it_has_no_meaning(changes: dict, told: str) -> None:
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        dataclasses.replace(bert_config(), **changes)


def test_heads_need_not_fill_the_width() -> None:
    """As where some were removed: each keeps its size, and the caches have what is left."""
    config = dataclasses.replace(llama_config(), heads=2, kv_heads=1, head_dim=8, width=30)
    assert config.head_size == 8
    attention = Transformer(config).layers[0].attention
    assert attention.query.weight.shape == (16, 30)
    assert attention.key.weight.shape == attention.value.weight.shape == (8, 30)
    assert attention.output.weight.shape == (30, 16)
    caches = [spec.shape for spec in config.signature().inputs if "past" in spec.shape]
    assert set(caches) == {("batch", 1, "past", 8)}
    assert TransformerConfig.from_json(config.to_json()) == config


def test_config_survives_json_and_refuses_unknown_settings() -> None:
    config = llama_config()
    assert TransformerConfig.from_json(config.to_json()) == config
    with pytest.raises(InputError, match="'experts'"):
        TransformerConfig.from_json({**config.to_json(), "experts": 8})
