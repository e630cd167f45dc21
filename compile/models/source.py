"""The artifact that every recipe starts from: a model as it was given, under its content's key."""

from __future__ import annotations

from compile.artifact import Artifact, Step, Store
from compile.models.resolve import Reference


def source_artifact(reference: Reference, store: Store, *, seed: int = 0) -> Artifact:
    """The starting artifact of a model, found in the store or put there.

    A zoo model is known by its configuration and ``seed``, a hub model by the hash of its weight
    files, a user's by the hash of its file and of the weights that its factory makes, an ONNX
    file by its bytes and those of its external data. ``kind`` is ``onnx`` for the last, else
    ``torch``. Raises InputError for what cannot be read, with the file and the way out.
    """
    # Imported here: each family brings libraries that the others do not need.
    if reference.family == "hub":
        from compile.models.hub import hub_source

        return hub_source(reference, store)
    if reference.family == "user":
        from compile.models.user import user_source

        return user_source(reference, store)
    if reference.family == "onnx":
        from compile.models.onnx_file import onnx_source

        return onnx_source(reference, store)
    return _zoo_source(reference, store, seed)


def _zoo_source(reference: Reference, store: Store, seed: int) -> Artifact:
    from compile.models.model import save_model, transformer_model

    config = reference.config
    assert config is not None, "a zoo reference comes with its configuration"
    parameters = {
        "family": "transformer",
        "name": reference.text,
        "config": config.to_json(),
        "seed": seed,
    }
    step = Step("source", version=1, parameters=parameters, libraries=("torch",))

    return store.derive(
        step,
        None,
        lambda folder: save_model(transformer_model(reference.text, config, seed=seed), folder),
    )
