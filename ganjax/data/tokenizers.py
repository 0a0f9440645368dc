"""From text to tokens and back: characters, bytes, words, and byte pairs.

A tokenizer is what a vocabulary makes of a text; it is stored with a run as JSON.
"""

import collections
import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ganjax.files import check_regular, reason
from ganjax.types import InputError

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
# What lines need beside their symbols; they come first in a vocabulary.
SPECIAL = (PAD, START, END)


class Tokenizer(Protocol):
    """What turns text into tokens.

    Attributes:
      vocab_size: tokens are integers below it.
      special: how many of them are no text: padding, start and end come first, or none.
    """

    vocab_size: int
    special: int

    def encode(self, text: str) -> np.ndarray:
        """Return tokens (N,) int32; raises `UnknownSymbolError`."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text; special tokens give nothing."""

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""


class UnknownSymbolError(InputError):
    """A text has a symbol that the vocabulary lacks.

    Attributes:
      symbol: which.
      position: of the character in the text where it begins.
      vocab_size: how many symbols are known.
    """

    def __init__(self, symbol: str, position: int, vocab_size: int):
        super().__init__(
            f"the symbol {symbol!r} (character {position + 1}) is not among the {vocab_size} that "
            "the vocabulary was made of: leave it out, or take bytes or byte pairs"
        )
        self.symbol, self.position, self.vocab_size = symbol, position, vocab_size


@dataclasses.dataclass(frozen=True)
class Symbols:
    """Characters or words as tokens.

    Attributes:
      symbols: the vocabulary without special tokens.
      words: whether symbols are separated by spaces.
      special: 0, or 3 for padding, start and end in front of the symbols.
    """

    symbols: tuple[str, ...]
    words: bool = False
    special: int = 0

    def __post_init__(self):
        index = {symbol: number for number, symbol in enumerate(self.symbols, self.special)}
        object.__setattr__(self, "_index", index)

    @property
    def vocab_size(self) -> int:
        return self.special + len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        symbols = text.split() if self.words else text
        index, unknown = self._index, self._index.get(UNKNOWN)
        tokens = np.array([index.get(symbol, -1) for symbol in symbols], np.int32)
        if (tokens < 0).any():
            if unknown is None:
                place = int(np.argmax(tokens < 0))
                first = symbols[place]
                if self.words:
                    # Not text.find: the word may be a part of an earlier one.
                    place = re.search(rf"(?<!\S){re.escape(first)}(?!\S)", text).start()
                raise UnknownSymbolError(first, place, len(self.symbols))
            tokens[tokens < 0] = unknown
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        symbols = [self.symbols[t - self.special] for t in tokens if t >= self.special]
        return (" " if self.words else "").join(symbols)

    def to_json(self) -> dict[str, Any]:
        kind = "words" if self.words else "characters"
        return {"kind": kind, "symbols": list(self.symbols), "special": self.special}


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Bytes of UTF-8 as tokens: no text is unknown.

    Attributes:
      special: 0, or 3 for padding, start and end in front of the bytes.
    """

    special: int = 0

    @property
    def vocab_size(self) -> int:
        return 256 + self.special

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + self.special

    def decode(self, tokens: Iterable[int]) -> str:
        content = bytes(int(t) - self.special for t in tokens if t >= self.special)
        return content.decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bytes", "special": self.special}


class BytePairs:
    """Byte pairs as tokens (Sennrich et al. 2015, arXiv:1508.07909), by the package `tokenizers`.

    Attributes:
      special: 0, or 3 for padding, start and end in front of the pairs.
    """

    def __init__(self, content: str, special: int = 0):
        self._content, self.special = content, special
        package = _package()
        with _failures("this is no tokenizer.json"):
            self._tokenizer = package.Tokenizer.from_str(content)
        # Published ones may cut what is longer than their model reads, and fill up what is shorter.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size() + self.special

    def encode(self, text: str) -> np.ndarray:
        with _failures("this tokenizer.json cannot take the text apart"):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, np.int32) + self.special

    def decode(self, tokens: Iterable[int]) -> str:
        ids = [int(t) - self.special for t in tokens if t >= self.special]
        with _failures("this tokenizer.json cannot put tokens together"):
            return self._tokenizer.decode(ids, skip_special_tokens=True)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bpe", "content": json.loads(self._content), "special": self.special}


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn what the package `tokenizers` raises into a sentence."""
    try:
        yield
    # It raises nothing more exact than Exception; and where it gives up, something of its own that
    # is not even that.
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise InputError(f"{what}: {reason(error)}") from error
        raise


def _package() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            "byte pairs need the package tokenizers: pip install 'ganjax[text]'"
        ) from error
    return tokenizers


def read_tokenizer(path: str | os.PathLike) -> BytePairs:
    """Read a `tokenizer.json`, as language models are published with.

    Raises:
      InputError: it is not there, is none, or the package `tokenizers` is not installed.
    """
    path = Path(path)
    check_regular(path)
    try:
        return BytePairs(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, InputError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _characters(texts: Sequence[str], size: int | None, special: int) -> Symbols:
    counts = collections.Counter(symbol for text in texts for symbol in text)
    return Symbols(_most_frequent(counts, size), special=special)


def _words(texts: Sequence[str], size: int | None, special: int) -> Symbols:
    counts = collections.Counter(word for text in texts for word in text.split())
    return Symbols(_most_frequent(counts, size), words=True, special=special)


def _most_frequent(counts: Mapping[str, int], size: int | None) -> tuple[str, ...]:
    """Return the symbols in their order; where there are too many, the rarer ones are unknown."""
    if size is None or len(counts) <= size:
        return tuple(sorted(counts))
    known = (symbol for symbol in counts if symbol != UNKNOWN)
    kept = sorted(known, key=lambda symbol: (-counts[symbol], symbol))[: size - 1]
    return (UNKNOWN, *sorted(kept))


def _bytes(texts: Sequence[str], size: int | None, special: int) -> Bytes:
    del texts
    if size is not None:
        raise InputError(f"bytes are always 256, data.text.vocab_size is {size}: leave it out")
    return Bytes(special)


def _byte_pairs(texts: Sequence[str], size: int | None, special: int) -> BytePairs:
    package = _package()
    if size is not None and size < 256:
        raise InputError(f"byte pairs begin with 256 bytes, data.text.vocab_size is {size}")
    tokenizer = package.Tokenizer(package.models.BPE())
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=size or 1024,
        show_progress=False,
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BytePairs(tokenizer.to_str(), special)


# Name -> (texts, vocabulary size or None, special tokens) -> tokenizer.
TOKENIZERS = {
    "characters": _characters,
    "bytes": _bytes,
    "words": _words,
    "bpe": _byte_pairs,
}


def build_tokenizer(
    kind: str, texts: Sequence[str], vocab_size: int | None = None, special: int = 0
) -> Tokenizer:
    """Return a tokenizer whose vocabulary is that of some texts.

    Args:
      kind: "characters", "bytes", "words" (between spaces) or "bpe"; or the path of a
        `tokenizer.json`.
      texts: what it is to be used on.
      vocab_size: the most symbols, apart from special tokens; rarer ones are unknown then. Of byte
        pairs 1024 by default; not for bytes and a `tokenizer.json`, which have their own.
      special: 0, or 3 for padding, start and end.

    Raises:
      InputError: there is no such kind, its package is not installed, or the vocabulary is too
        small or cannot be chosen.

    >>> tokenizer = build_tokenizer("characters", ["abba"])
    >>> tokenizer.encode("bab"), tokenizer.decode([0, 0])
    (array([1, 0, 1], dtype=int32), 'aa')
    """
    if kind.endswith(".json"):
        if vocab_size is not None:
            raise InputError(
                f"{kind} has a vocabulary of its own, data.text.vocab_size is {vocab_size}: leave "
                "it out"
            )
        return BytePairs(read_tokenizer(kind)._content, special)
    if kind not in TOKENIZERS:
        raise InputError(
            f"data.text.tokens is {kind!r}, expected {', '.join(TOKENIZERS)} or the path of a "
            "tokenizer.json"
        )
    if vocab_size is not None and vocab_size < 2:
        raise InputError(f"data.text.vocab_size has to be 2 or more, got {vocab_size}")
    return TOKENIZERS[kind](texts, vocab_size, special)


def from_json(value: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that `to_json` wrote.

    Raises:
      InputError: it is none.
    """
    try:
        special = value.get("special", 0)
        if type(special) is not int or special not in (0, len(SPECIAL)):
            raise TypeError("special")
        if value["kind"] in ("characters", "words"):
            return Symbols(tuple(map(str, value["symbols"])), value["kind"] == "words", special)
        if value["kind"] == "bytes":
            return Bytes(special)
        if value["kind"] == "bpe":
            return BytePairs(json.dumps(value["content"]), special)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
    raise InputError("this is no vocabulary that a run has written")
