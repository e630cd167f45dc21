"""Any transformers model, by its name on the model hub or from a local folder.

The task and the class that it is loaded with come from optimum's ``TasksManager``, its inputs
from optimum's generators. Weights are read from safetensors only, and no code that comes with a
model is run.

A text-generation model gets the decoder's contract of ``docs/architecture.md`` where its cache
is the plain one (a key and a value for each layer, all of them kept): prefill and decode in one
graph. Where it is not (sliding windows, recurrent states), the model is taken without its cache,
and the artifact's fact ``kv_cache`` says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from optimum.exporters.tasks import TasksManager
from optimum.utils import input_generators
from optimum.utils.normalized_config import (
    NormalizedConfigManager,
    NormalizedTextConfig,
    NormalizedVisionConfig,
)
from safetensors import SafetensorError
from torch import Tensor, nn

from compile.artifact import Artifact, Made, Step, Store, file_sha256
from compile.errors import Corrupted, InputError, Unsupported
from compile.models.adapter import KeywordAdapter, observe_outputs, run_named
from compile.models.config import decoder_signature
from compile.models.fp8 import put_fp8, take_fp8
from compile.models.hub_cache import CausalAdapter, cache_shape
from compile.models.hub_files import hub_folder
from compile.models.labels import label_names
from compile.models.model import WEIGHTS, Model, read_weights, save_model
from compile.models.resolve import Reference
from compile.signature import Feeds, Signature, TensorSpec

_GENERATORS: dict[str, tuple[type[input_generators.DummyInputGenerator], type]] = {
    "input_ids": (input_generators.DummyTextInputGenerator, NormalizedTextConfig),
    "pixel_values": (input_generators.DummyVisionInputGenerator, NormalizedVisionConfig),
    "input_values": (input_generators.DummyAudioInputGenerator, NormalizedTextConfig),
    "input_features": (input_generators.DummyAudioInputGenerator, NormalizedTextConfig),
}
"""Main input of a model -> what makes such inputs, and how that reads a configuration."""

_SIZES = {"batch_size": 2, "sequence_length": 8}


def hub_source(reference: Reference, store: Store) -> Artifact:
    """The starting artifact of a transformers model, known by the hash of its files.

    Facts: ``parameters``, for text generation ``kv_cache``, and of a text classifier whose classes
    have names, ``labels`` in the order of its logits. Raises InputError for a folder
    without a configuration or safetensors, a hub that cannot be reached, a task that is unknown
    or that the weights were not made for.
    """
    folder = hub_folder(reference)
    parameters = {
        "family": "hub",
        "name": reference.text,
        "task": reference.task,
        "content": _content_hash(reference.text, folder),
    }
    step = Step("source", 2, parameters, libraries=("torch", "transformers", "optimum"))

    def make(target: Path) -> Made:
        model = hub_model(folder, name=reference.text, task=reference.task)
        facts: dict[str, Any] = {}
        names = label_names(model.origin["config"])
        if model.task == "text-classification" and names:
            facts["labels"] = names
        if model.task == "text-generation":
            facts["kv_cache"] = "past" in model.signature.axes
        return save_model(model, target, facts)

    return store.derive(step, None, make)


def hub_model(folder: Path, *, name: str, task: str | None = None) -> Model:
    """The model in a local folder, in fp32. Raises InputError as ``hub_source`` does."""
    config = _config(name, folder)
    task, cls = _task_and_class(name, config, task)
    try:
        with _quiet():
            module, report = cls.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(
            f"model {name!r} cannot be loaded from {folder}: {_line(error)}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"model {name!r} has no weights for {missing[0]!r}, which task {task!r} needs; choose "
            "the task that it was trained for"
        )
    module.eval()
    settings = json.loads(module.config.to_json_string(use_diff=False))
    origin = {
        "family": "hub",
        "class": type(module).__name__,
        "config": settings,
        "causal": task == "text-generation",
    }
    if task == "text-generation":
        signature = _causal_signature(module)
        return Model(name, CausalAdapter(module).eval(), signature, task, origin)
    inputs = _inputs(name, module, task)
    adapter = _adapter(module, tuple(inputs)).eval()
    examples = {name: tensor.numpy() for name, (_, tensor) in inputs.items()}
    specs = tuple(spec for spec, _ in inputs.values())

    def call(feeds: Feeds, trying: str) -> dict[str, Tensor]:
        try:
            return run_named(adapter, feeds)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"model {name!r} fails on {trying}: {_line(error)}") from error

    signature = Signature(specs, observe_outputs(call, specs, examples), _max_sequence(module))
    return Model(name, adapter, signature, task, origin)


def rebuild_hub(origin: Mapping[str, Any], signature: Signature, folder: Path) -> nn.Module:
    """The module of a hub artifact, its weights in the type that they were saved in.

    Raises Unsupported under an older major version of transformers than wrote its configuration.
    """
    _check_version(origin)
    cls = getattr(transformers, origin["class"])
    state, packed = take_fp8(read_weights(folder / WEIGHTS))
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    with _quiet():
        module, report = cls.from_pretrained(
            None,
            config=cls.config_class.from_dict(dict(origin["config"])),
            state_dict=state,
            dtype=dtype,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise Corrupted(f"{folder / WEIGHTS} has no weights for {missing[0]!r}")
    put_fp8(module, packed)
    if origin["causal"]:
        return CausalAdapter(module)
    return _adapter(module, tuple(spec.name for spec in signature.inputs))


def _check_version(origin: Mapping[str, Any]) -> None:
    # An older one ignores what it does not know and computes something else without a word:
    # transformers 4 finds no RoPE base in a configuration of transformers 5 and takes its default.
    wrote, reads = origin["config"]["transformers_version"], transformers.__version__
    if int(reads.partition(".")[0]) < int(wrote.partition(".")[0]):
        raise Unsupported(
            f"the model was built with transformers {wrote}, and {reads} would misread its "
            "configuration; give the runtime an environment that has one as new"
        )


def _adapter(module: nn.Module, names: tuple[str, ...]) -> KeywordAdapter:
    takes = inspect.signature(module.forward).parameters
    return KeywordAdapter(module, names, **({"use_cache": False} if "use_cache" in takes else {}))


def _content_hash(name: str, folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise InputError(f"model {name!r}: folder {folder} has no config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(
            f"model {name!r}: folder {folder} has no safetensors, and other weights are not read; "
            "save it again with save_pretrained(..., safe_serialization=True)"
        )
    hashes = [file_sha256(path) for path in (folder / "config.json", *weights)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _config(name: str, folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"model {name!r}: {folder / 'config.json'}: {_line(error)}") from error


def _task_and_class(name: str, config: Any, task: str | None) -> tuple[str, Any]:
    """The task that was asked for, or that of the architecture in the configuration."""
    if config.is_encoder_decoder:
        raise Unsupported(f"model {name!r} is an encoder with a decoder, which is not handled")
    if task is not None:
        task = TasksManager.map_from_synonym(task)
        if task not in TasksManager.get_all_tasks():
            raise InputError(
                f"model {name!r}: unknown task {task!r}; there are "
                f"{', '.join(sorted(TasksManager.get_all_tasks()))}"
            )
        try:
            return task, TasksManager.get_model_class_for_task(task, model_type=config.model_type)
        except (KeyError, ValueError, AttributeError) as error:
            raise InputError(f"model {name!r} cannot do task {task!r}: {_line(error)}") from error
    architecture = next(iter(config.architectures or ()), None)
    cls = getattr(transformers, architecture or "", None)
    if cls is None:
        raise InputError(
            f"model {name!r}: its architecture {architecture!r} is not one of transformers'; "
            "name its task"
        )
    try:
        return TasksManager.infer_task_from_model(cls), cls
    except ValueError as error:
        raise InputError(
            f"model {name!r}: architecture {architecture!r} tells no task; name it, for example "
            "task = 'text-classification'"
        ) from error


def _inputs(name: str, module: Any, task: str) -> dict[str, tuple[TensorSpec, Tensor]]:
    """Input name -> its specification and optimum's dummy tensor, in the order of ``forward``."""
    config = module.config
    if module.main_input_name not in _GENERATORS:
        raise Unsupported(f"model {name!r} wants {module.main_input_name!r}, which is not handled")
    generator_class, fallback = _GENERATORS[module.main_input_name]
    try:
        normalized = NormalizedConfigManager.get_normalized_config_class(config.model_type)
    except KeyError:
        normalized = fallback
    generator = generator_class(task, normalized(config), **_SIZES)
    wanted = {module.main_input_name, "attention_mask"}
    highs = {"attention_mask": 2, "input_ids": getattr(config, "vocab_size", None)}
    if getattr(config, "type_vocab_size", 0):
        wanted.add("token_type_ids")
        highs["token_type_ids"] = config.type_vocab_size
    found = {}
    for parameter in inspect.signature(module.forward).parameters:
        if parameter not in wanted or parameter not in generator.SUPPORTED_INPUT_NAMES:
            continue
        tensor = generator.generate(parameter, framework="pt")
        shape: tuple[int | str, ...] = ("batch", *tensor.shape[1:])
        if module.main_input_name == "input_ids":
            shape = (*shape[:-1], "sequence")
        fill = {"attention_mask": "ones", "token_type_ids": "zeros"}.get(parameter, "random")
        dtype = str(tensor.dtype).removeprefix("torch.")
        found[parameter] = TensorSpec(parameter, dtype, shape, highs.get(parameter), fill), tensor
    return found


def _causal_signature(module: Any) -> Signature:
    vocabulary, longest = module.config.vocab_size, _max_sequence(module)
    if cache := cache_shape(module):
        return decoder_signature(vocabulary, *cache, longest)
    shape = ("batch", "sequence")
    tokens = TensorSpec("input_ids", "int64", shape, vocabulary)
    mask = TensorSpec("attention_mask", "int64", shape, 2, "ones")
    logits = TensorSpec("logits", "float32", (*shape, vocabulary))
    return Signature((tokens, mask), (logits,), longest)


def _max_sequence(module: Any) -> int | None:
    """The longest text that the model's positions allow."""
    longest = getattr(module.config, "max_position_embeddings", None)
    for name, part in module.named_modules():
        # RoBERTa's positions begin behind its padding token's.
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            return part.num_embeddings - part.padding_idx - 1
    return longest if isinstance(longest, int) and longest > 0 else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and advice from transformers while it loads."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
