"""Distillation into fewer layers: a student of every k-th layer learns to answer as its teacher.

As DistilBERT (Sanh et al. 2019): the student starts from a copy of the teacher's own layers, and

    loss = alpha * T^2 * KL(teacher / T || student / T) + (1 - alpha) * CE(labels)
         + hidden * mean(1 - cos(student hidden, teacher hidden))

with the logits' temperature T (Hinton et al. 2015). A student layer is compared with the last of
the teacher's layers that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional

from compile.artifact import Artifact, Made
from compile.data import IGNORED, Batch, DataSource
from compile.errors import InputError, Unsupported
from compile.graph import MODEL
from compile.models.model import Model, load_model, save_model, transformer_model
from compile.models.transformer import Transformer
from compile.signature import Feeds, Signature
from compile.train_settings import TrainSettings
from compile.training import every_tenth, train
from quantize.audit import PassFailed, check_examples
from quantize.passes import Distill, PruneStructured

COMPARED = 64
"""Calibration examples on which the student is compared with its teacher, or all there are."""

Teacher = Callable[[Feeds], tuple[Tensor, list[Tensor]]]
"""Feeds -> logits, and the hidden states of the embeddings and each layer, where it has any."""


def make_distilled(
    source: Artifact,
    asked: Distill,
    folder: Path,
    data: DataSource,
    progress: Callable[[str], None],
    exported: Artifact | None,
) -> Made:
    """Carry out the pass on a torch artifact, train the student, and audit the result.

    ``exported`` is the teacher's ONNX artifact, to be run in the module's place. Facts: the
    teacher's and student's layers, the loss curve, whether hidden states were learned from, and
    how often student and teacher agree on ``compared_examples``. Raises Unsupported for any but
    Assay's own transformer.
    """
    original = load_model(source.folder)
    if not isinstance(original.module, Transformer):
        raise Unsupported(
            f"pass 'distill' takes layers from Assay's own transformer; {original.name!r} is a "
            f"{type(original.module).__name__}"
        )
    depth = len(original.module.layers)
    student, kept = shallower(original, asked.layers or -(-depth // 2))
    teacher = onnx_teacher(exported) if exported else torch_teacher(original)
    segment_ends = [*kept[1:], depth]

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        hidden: list[Tensor] = []
        logits = module(*_tensors(batch.feeds, student.signature), hidden=hidden)[0]
        taught, states = teacher(batch.feeds)
        pairs = (
            [(hidden[i + 1], states[end]) for i, end in enumerate(segment_ends)] if states else []
        )
        mask = batch.feeds.get("attention_mask")
        return distillation_loss(
            logits,
            taught,
            torch.from_numpy(batch.labels),
            pairs,
            None if mask is None else torch.from_numpy(mask),
            asked,
        )

    settings = TrainSettings(asked.steps, asked.batch_size, learning_rate=asked.lr, seed=asked.seed)
    compared = check_examples(asked.name, "comparison with the teacher", data, COMPARED)
    before, _ = compare(student, teacher, data, compared)
    result = train(
        student.module, data, settings, loss=loss, progress=every_tenth("distill", progress)
    )
    made = save_model(student, folder)
    after, same = compare(load_model(folder), teacher, data, compared)
    if asked.alpha > 0:
        check_learned(before, after)
    facts = {
        "teacher": asked.teacher,
        "teacher_layers": depth,
        "layers": len(kept),
        "layers_copied": kept,
        "compared_examples": compared,
        "hidden_states": exported is None and asked.hidden > 0,
        "teacher_divergence_before": round(before, 6),
        "teacher_divergence": round(after, 6),
        "teacher_agreement": round(same, 4),
        **result.facts(),
    }
    return Made("torch", made.signature, {**made.facts, **facts})


def shallower(teacher: Model, layers: int) -> tuple[Model, list[int]]:
    """A student of that many of the teacher's layers, evenly spaced from the first on.

    Returns it with the indices of the layers that it holds copies of; embeddings, final norm and
    head are copied too.
    """
    module = teacher.module
    assert isinstance(module, Transformer)
    depth = len(module.layers)
    if layers >= depth:
        raise InputError(
            f"pass 'distill': layers = {layers} has to be fewer than the teacher's {depth}"
        )
    kept = [index * depth // layers for index in range(layers)]
    config = replace(module.config, layers=layers)
    student = transformer_model(teacher.name, config, task=teacher.task)
    state = {k: v for k, v in module.state_dict().items() if not k.startswith("layers.")}
    for new, old in enumerate(kept):
        for name, value in module.layers[old].state_dict().items():
            state[f"layers.{new}.{name}"] = value
    student.module.load_state_dict(state)
    return student, kept


def distillation_loss(
    logits: Tensor,
    taught: Tensor,
    labels: Tensor,
    hidden: list[tuple[Tensor, Tensor]],
    mask: Tensor | None,
    asked: Distill | PruneStructured,
) -> Tensor:
    """The module's formula. ``logits`` and ``taught`` are labels.shape + (classes,), positions
    labelled ``IGNORED`` count for neither term; ``hidden`` holds pairs of (batch, sequence,
    width), compared where ``mask`` (batch, total) is set."""
    asked_for = (labels != IGNORED).flatten()
    student, teacher = logits.flatten(0, -2)[asked_for], taught.flatten(0, -2)[asked_for]
    heat = asked.temperature
    soft = heat**2 * functional.kl_div(
        functional.log_softmax(student / heat, -1),
        functional.log_softmax(teacher / heat, -1),
        reduction="batchmean",
        log_target=True,
    )
    loss = asked.alpha * soft
    if asked.alpha < 1:
        hard = functional.cross_entropy(student, labels.flatten()[asked_for])
        loss = loss + (1 - asked.alpha) * hard
    if hidden and asked.hidden:
        distances = [_cosine_distance(ours, theirs, mask) for ours, theirs in hidden]
        loss = loss + asked.hidden * torch.stack(distances).mean()
    return loss


def torch_teacher(model: Model) -> Teacher:
    """The teacher's module, with its hidden states."""

    def run(feeds: Feeds) -> tuple[Tensor, list[Tensor]]:
        hidden: list[Tensor] = []
        with torch.no_grad():
            logits = model.module(*_tensors(feeds, model.signature), hidden=hidden)[0]
        return logits, hidden

    return run


def onnx_teacher(artifact: Artifact) -> Teacher:
    """The teacher's exported graph in ONNX Runtime, which gives logits and no hidden states."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # The student trains on the same cores: the teacher's idle threads must not spin on them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(
        artifact.folder / MODEL, options, providers=["CPUExecutionProvider"]
    )
    names = [spec.name for spec in artifact.signature.inputs]
    logits = artifact.signature.outputs[0].name

    def run(feeds: Feeds) -> tuple[Tensor, list[Tensor]]:
        outputs = session.run([logits], {name: feeds[name] for name in names})
        return torch.from_numpy(outputs[0]), []

    return run


def compare(
    student: Model, teacher: Teacher, data: DataSource, examples: int
) -> tuple[float, float]:
    """Mean KL(teacher || student) in nats, and the share of positions where both have the same
    largest logit, on that many calibration examples.

    Raises PassFailed where the student's logits are not finite.
    """
    divergence, same, total = 0.0, 0, 0
    with torch.inference_mode():
        for feeds in data.calibration(examples):
            logits = student.module(*_tensors(feeds, student.signature))[0]
            if not torch.isfinite(logits).all():
                raise PassFailed("distill", "logits", "finite ones", "some that are not")
            taught = teacher(feeds)[0]
            ours, theirs = functional.log_softmax(logits, -1), functional.log_softmax(taught, -1)
            divergence += float(functional.kl_div(ours, theirs, reduction="sum", log_target=True))
            equal = logits.argmax(-1) == taught.argmax(-1)
            same, total = same + int(equal.sum()), total + equal.numel()
    return divergence / total, same / total


def check_learned(before: float, after: float) -> None:
    """Training brought the student closer to its teacher than the copied layers were."""
    if after >= before:
        raise PassFailed(
            "distill",
            "divergence from the teacher",
            f"less than before training, {before:.4g} nats",
            f"{after:.4g}; try more steps or another lr",
        )


def _cosine_distance(ours: Tensor, theirs: Tensor, mask: Tensor | None) -> Tensor:
    distance = 1 - functional.cosine_similarity(ours, theirs, dim=-1)
    if mask is None:
        return distance.mean()
    kept = mask[:, -distance.shape[1] :].to(distance.dtype)
    return (distance * kept).sum() / kept.sum().clamp(min=1)


def _tensors(feeds: Feeds, signature: Signature) -> list[Tensor]:
    # By name, because a student decoder has fewer past keys and values than the data holds.
    return [torch.from_numpy(feeds[spec.name]) for spec in signature.inputs]
