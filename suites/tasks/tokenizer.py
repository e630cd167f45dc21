"""The embedded tokenizer, and how any tokenizer is asked for what a task needs.

The embedded one is byte-level byte-pair encoding (Sennrich et al. 2016; the byte alphabet of
GPT-2), trained on the train split alone. It normalises nothing, so that its tokens' bytes add up
to the bytes of the text: bits per byte are exact.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from compile.errors import InputError
from compile.models.hub_files import TOKENIZER, TOKENIZER_CONFIG
from suites.tasks.cache import cached
from suites.tasks.corpus import Corpus
from suites.tasks.prepared import Vocabulary

VOCABULARY = 4096
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Their ids are their positions: 0 to 4."""


def embedded_tokenizer(corpus: Corpus) -> Tokenizer:
    """The tokenizer trained on the corpus's train split, from the cache where it is there."""
    version = importlib.metadata.version("tokenizers")
    material = f"{corpus.fingerprint} {VOCABULARY} {SPECIAL_TOKENS} {version}"
    key = hashlib.sha256(material.encode()).hexdigest()[:16]
    path = cached(
        f"tokenizer-{key}.json",
        lambda draft: _train(m.text for m in corpus.split("train")).save(str(draft)),
    )
    return Tokenizer.from_file(str(path))


def load_tokenizer(path: Path) -> Tokenizer:
    """A ``tokenizer.json``, or the one in a model's folder. Raises InputError."""
    file = path / TOKENIZER if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a tokenizer.json or a folder that has one")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises nothing narrower
        raise InputError(f"{file} is not a tokenizer: {error}") from error
    # A file may ask for its own truncation and padding; the tasks do both themselves.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def padding_token(path: Path) -> str | None:
    """The token that pads, as the ``tokenizer.json`` or the ``tokenizer_config.json`` beside it
    says; None where neither does."""
    file = path / TOKENIZER if path.is_dir() else path
    for source, key in ((file, "padding"), (file.with_name(TOKENIZER_CONFIG), "pad_token")):
        try:
            said = json.loads(source.read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError):
            continue
        # A token is its text, or a table in which that is the content.
        if isinstance(said, dict):
            said = said.get("pad_token", said.get("content"))
        if isinstance(said, str):
            return said
    return None


def vocabulary(tokenizer: Tokenizer, pad: str | None = None) -> Vocabulary:
    """The special ids of any tokenizer: what it begins a text with where it does, ``pad`` where
    that is known, and the others by the names that the published ones use."""

    def find(*names: str) -> int | None:
        return next((i for n in names if (i := tokenizer.token_to_id(n)) is not None), None)

    ids = tokenizer.get_added_tokens_decoder()
    before, _ = frame(tokenizer)
    return Vocabulary(
        # The largest id, not the count: published vocabularies have gaps.
        size=max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        pad=find(*filter(None, [pad]), "[PAD]", "<pad>", "<|endoftext|>", "</s>") or 0,
        first=int(before[0])
        if len(before)
        else find("[CLS]", "<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
        mask=find("[MASK]", "<mask>"),
        special=tuple(sorted(i for i, token in ids.items() if token.special)),
    )


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """int64 ``(vocabulary,)``: bytes of text that each token stands for, 0 for special tokens.

    Raises InputError for a tokenizer whose tokens do not add up to the text (WordPiece drops
    white space and case), where bits per byte have no meaning.
    """
    probe = "A  b\té漢\n    return x\n"
    known = vocabulary(tokenizer)
    sizes = np.zeros(known.size, np.int64)
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id not in known.special:
            # In the byte alphabet one character stands for one byte; an added token is text.
            plain = alphabet.issuperset(token)
            sizes[token_id] = len(token) if plain else len(token.encode())
    covered = int(sizes[tokenizer.encode(probe, add_special_tokens=False).ids].sum())
    if covered != len(probe.encode()):
        raise InputError(
            "this tokenizer does not keep every byte of the text, so bits per byte are undefined; "
            "use a byte-level tokenizer or the embedded one"
        )
    return sizes


def frame(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The special tokens that this tokenizer puts before and after one text, int32."""
    encoding = tokenizer.encode("a")
    content = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    ids = np.array(encoding.ids, np.int32)
    if not content:  # a vocabulary of whole words may have no token for this one
        return ids[:1], ids[1:]
    return ids[: content[0]], ids[content[-1] + 1 :]


def _train(texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, SPECIAL_TOKENS.index(t)) for t in ("[CLS]", "[SEP]")],
    )
    return tokenizer
