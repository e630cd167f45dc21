"""Quantization-aware training: the forward pass rounds as static INT8 does, the gradient passes by.

torchao's PT2E flow puts a fake quantizer at the input and at the weight of each linear layer of the
exported program (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference"), on the grids of ``quantize/int8.py``: weights -127..127 by
output, inputs by tensor. The weights that were trained so go back into the module; ``int8``, which
has to come next, calibrates on it and writes the QDQ graph, with the audit that it always has.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compile.artifact import Artifact, Made
from compile.data import DataSource
from compile.export import Positional, traced_inputs
from compile.models.model import Model, load_model, save_model
from compile.parity import parity_feeds
from compile.train_settings import TrainSettings
from compile.training import every_tenth, train
from quantize.audit import PassFailed, check_exclude, check_faithful
from quantize.exclude import matching
from quantize.half import torch_run
from quantize.passes import Activations, Qat
from quantize.prune import taught_loss
from quantize.weights import linear_weights


def make_trained(
    source: Artifact,
    asked: Qat,
    folder: Path,
    data: DataSource,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on a torch artifact and audit the result.

    Facts: ``layers`` whose rounding was trained for, ``layers_excluded``, the training's loss
    curve, and ``snr_db`` of the outputs to what training changed. Raises PassFailed where a linear
    layer of the module is none in the exported program.
    """
    reference, model = load_model(source.folder), load_model(source.folder)
    selection = linear_weights(model.inner, asked.exclude)
    check_exclude(asked.name, asked.exclude, selection.names)
    with _quiet():
        program, taken = fake_quantized(model, asked)
        missed = sorted({*selection.linear, *selection.missed} - {*taken})
        if missed or not taken:
            wanted = "every linear layer of the module, and at least one"
            found = f"not {missed[0]!r}" if missed else "none"
            raise PassFailed(asked.name, "layers with fake quantizers", wanted, found)
        result = _train(program, reference, asked, data, progress)
    _copy_weights(asked.name, program, model)
    made = save_model(model, folder)
    facts: dict[str, Any] = {"layers": len(taken), "layers_excluded": selection.excluded}
    feeds = (feeds for _, feeds in parity_feeds(source.signature, reference.examples))
    runs = torch_run(reference), torch_run(load_model(folder))
    facts |= check_faithful(asked.name, *runs, feeds, -math.inf)
    return Made("torch", made.signature, {**made.facts, **facts, **result})


def fake_quantized(model: Model, asked: Qat) -> tuple[torch.fx.GraphModule, list[str]]:
    """The model's exported program with fake quantizers, and the names of the layers that have
    them. It is called like ``model.module``, with the signature's inputs by position."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    inputs, dynamic = traced_inputs(model)
    module = Positional(model.module).eval()
    axes = tuple(dict.fromkeys(named, torch.export.Dim.AUTO) for named in dynamic)
    # Traced with a cache, and trained without: the same operations, behind a guard that says no.
    exported = torch.export.export(module, inputs, dynamic_shapes=(axes,))
    program = exported.module(check_guards=False)
    quantizer = _quantizer(asked)
    prepared = prepare_qat_pt2e(program, quantizer)
    return allow_exported_model_train_eval(prepared), quantizer.taken


def _quantizer(asked: Qat) -> Any:
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer

    inputs, weights = _specs(asked.activations)

    class Layers(Quantizer):
        """Of each linear layer that is not excluded, its input and its weight."""

        def __init__(self) -> None:
            self.taken: list[str] = []

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if node.target is not torch.ops.aten.linear.default:
                    continue
                weight = _module_name(str(node.args[1].target))
                layer = weight.removesuffix(".weight")
                if matching(asked.exclude, [layer, weight]):
                    continue
                self.taken.append(layer)
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: inputs, node.args[1]: weights},
                    _annotated=True,
                )
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            """Nothing to check: ``make_trained`` knows which layers there have to be."""

    return Layers()


def _specs(activations: Activations) -> tuple[Any, Any]:
    """How inputs and weights are rounded: on the grids of ``Range.grid`` and ``channel_codes``."""
    from torchao.quantization.pt2e import (
        FakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    # Not torchao's fused quantizer: its symmetric scales are those for -128..127, 255/254 of these.
    signed = activations == "s8"
    inputs = QuantizationSpec(
        dtype=torch.int8 if signed else torch.uint8,
        quant_min=-127 if signed else 0,
        quant_max=127 if signed else 255,
        qscheme=torch.per_tensor_symmetric if signed else torch.per_tensor_affine,
        observer_or_fake_quant_ctr=FakeQuantize.with_args(observer=MovingAverageMinMaxObserver),
    )
    weights = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=FakeQuantize.with_args(
            # Of a weight the range is that of its values now.
            observer=MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=1.0)
        ),
    )
    return inputs, weights


def _train(
    program: nn.Module,
    reference: Model,
    asked: Qat,
    data: DataSource,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    settings = TrainSettings(asked.steps, asked.batch_size, learning_rate=asked.lr, seed=asked.seed)
    result = train(
        program,
        data,
        settings,
        loss=taught_loss(reference, asked.alpha),
        progress=every_tenth("qat", progress),
    )
    return result.facts()


def _copy_weights(name: str, program: nn.Module, model: Model) -> None:
    trained = dict(program.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for key, parameter in model.module.named_parameters():
            found = trained.get(f"model.{key}")
            if found is None or not found.isfinite().all():
                what = "missing" if found is None else "not finite"
                raise PassFailed(name, f"trained weight {key!r}", "finite numbers", what)
            parameter.copy_(found)


def _module_name(key: str) -> str:
    """Of a parameter of the program, as the module's author calls it."""
    return key.removeprefix("model.").removeprefix("inner.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torchao tells of kernels for other machines and of its own deprecations."""
    logger = logging.getLogger("torchao")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
