"""Text as data: windows of a running text, or one sentence a line."""

import codecs
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ganjax.data import tokenizers
from ganjax.data.dataset import Dataset, check_labels, fingerprint
from ganjax.data.oracle import Oracle
from ganjax.data.tokenizers import SPECIAL, Symbols, Tokenizer, UnknownSymbolError, build_tokenizer
from ganjax.files import opened, read_at_most, reading
from ganjax.types import InputError

_BUILTIN = Path(__file__).parent / "builtin"
# What needs no file: name -> the file in the package.
TEXTS = {"tiny_shakespeare": "tinyshakespeare.txt.gz"}
# Names of files in a folder that are not to be trained on.
OTHER_SPLITS = ("test", "valid", "validation", "val", "dev")
# How files begin that are Unicode, but not UTF-8; the longer marks begin with the shorter ones.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ENDINGS = (".txt", ".txt.gz")
# The places of the special tokens of lines.
PAD_TOKEN, START_TOKEN, END_TOKEN = 0, 1, 2
# Sequences of an oracle to train on, as SeqGAN has them.
ORACLE_EXAMPLES = 10_000
_NO_CLASSES = (
    ", expected two classes or more: point data.source to a folder with a .txt, or a folder of "
    "them, of each class, named after it, or set model.conditional to False."
)
_LARGEST_BYTES = 1 << 32  # of a text, unpacked


@dataclasses.dataclass(frozen=True)
class TextForm:
    """What the tokens of a data set, and of a model of it, are.

    Attributes:
      vocab_size: tokens are integers below it.
      length: of a sequence that a model looks at.
      windows: whether sequences (length + 1,) are windows of a running text: the first token of
        each is only looked at. Otherwise each (length,) is a line, with its stop token and then
        padding where it is shorter, or a sequence of full length.
      start_token: with which writing begins.
      stop_token: with which it ends, or None.
      pad_token: what does not count, or None.
      tokenizer: what made the tokens; None of an oracle, whose tokens stand for nothing.
    """

    vocab_size: int
    length: int
    windows: bool = False
    start_token: int = 0
    stop_token: int | None = None
    pad_token: int | None = None
    tokenizer: Tokenizer | None = None

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text of tokens (N,) up to the stop token; numbers where they are no text."""
        tokens = self.trimmed(np.asarray(tokens))
        if self.tokenizer is None:
            return " ".join(map(str, tokens.tolist()))
        return self.tokenizer.decode(tokens)

    def trimmed(self, tokens: np.ndarray) -> np.ndarray:
        """Return the tokens (N,) before the first stop token."""
        ends = () if self.stop_token is None else np.flatnonzero(tokens == self.stop_token)
        return tokens[: ends[0]] if len(ends) else tokens

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tokenizer = self.tokenizer
        return {**fields, "tokenizer": None if tokenizer is None else tokenizer.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TextForm":
        """Return what `to_json` wrote.

        Raises:
          InputError: it is something else.
        """
        try:
            tokenizer = value["tokenizer"]
            tokenizer = None if tokenizer is None else tokenizers.from_json(tokenizer)
            form = cls(**{**value, "tokenizer": tokenizer})
        except (TypeError, KeyError) as error:
            raise InputError(f"this is no form of text that a run has written: {error}") from error
        numbers = (form.vocab_size, form.length, form.start_token)
        places = (p for p in (form.stop_token, form.pad_token) if p is not None)
        if (
            type(form.windows) is not bool
            or not all(type(n) is int for n in (*numbers, *places))
            or not (0 < form.vocab_size < 1 << 31 and 0 < form.length < 1 << 31)
            or (tokenizer is not None and tokenizer.vocab_size != form.vocab_size)
        ):
            raise InputError("this is no form of text that a run has written: wrong numbers")
        return form


@dataclasses.dataclass(frozen=True, eq=False)
class TextDataset(Dataset):
    """A data set of sequences `"tokens"`, unsigned integers, and maybe their classes `"label"`.

    Attributes:
      form: what they are.
      num_characters: that all tokens that count stand for; 0 where they stand for nothing.
    """

    form: TextForm | None = None
    num_characters: int = 0


def load_text(
    source: str,
    *,
    tokens: str = "characters",
    length: int = 64,
    lines: bool = False,
    long_lines: str = "refuse",
    vocab_size: int | None = None,
    held_out: int = 1000,
    split: str = "train",
    data_dir: str | None = None,
    tokenizer: Tokenizer | None = None,
    oracle_seed: int = 0,
    labels: bool = False,
    feature: str | None = None,
) -> tuple[TextDataset, TextDataset | None]:
    """Load a text, and split a held-out part off.

    Args:
      source: "tiny_shakespeare" (1.1 million characters, in the package); a .txt or .txt.gz; a
        folder of them; "tfds:NAME" of a set with a text feature; "oracle", sequences that an LSTM
        with random weights has written (see `Oracle`), 10,000 and those held out.
      tokens: "characters", "bytes", "words", "bpe", or the path of a tokenizer.json.
      length: tokens that a model sees at once; of a line, the most it may have, its end included.
      lines: take each line for itself; otherwise the text is one stream.
      long_lines: what to do with lines that are longer: "refuse", "cut" or "drop".
      vocab_size: the most words, characters or byte pairs to tell apart; rarer ones are unknown
        then. Lines have three tokens more: padding, start and end.
      held_out: examples to keep from the training: lines, chosen by a permutation that depends on
        nothing but their number; or windows, one after another, from the end of the text.
      split: of a folder, the name of a file, or of a folder in it, without its ending; where there
        is none for "train", all files but those of other splits. Of TFDS, as it writes splits.
      data_dir: where tensorflow-datasets keeps its data.
      tokenizer: use this one, such as that of a trained model; of lines with special tokens.
      oracle_seed: of the oracle's weights and sequences.
      labels: read the class of each line as well. Of a folder that is the name of its file, or of
        the folder in it that holds its files; of TFDS the feature "label", or the only class label.
      feature: of TFDS, which text to read; by default "text", or the only one.

    Returns:
      The training part, and the held-out part or None.

    Raises:
      InputError: the source is not there, empty or broken, is not UTF-8, or has lines that are too
        long: the message names file and line; or it has no classes to read.

    >>> train, held_out = load_text("tiny_shakespeare", length=64)
    >>> train.form.vocab_size, train.features["tokens"][0], held_out.num_examples
    (65, (65,), 1000)
    """
    if length < 1:
        raise InputError(f"data.text.length has to be 1 or more, got {length}")
    if held_out < 0:
        raise InputError(f"data.held_out has to be 0 or more, got {held_out}")
    if long_lines not in ("refuse", "cut", "drop"):
        raise InputError(f"data.text.long_lines is {long_lines!r}, expected refuse, cut or drop")
    if labels and source == "oracle":
        raise InputError("an oracle's sequences have no classes: set model.conditional to False.")
    if labels and not lines:
        raise InputError(
            "classes are of lines: set data.text.lines, or model.conditional to False."
        )
    if feature is not None and not source.startswith("tfds:"):
        raise InputError(f"data.text.feature is for tfds:NAME, and {source} is another source.")
    if source == "oracle":
        return _oracle(oracle_seed, length, held_out)
    content = _read(source, split, data_dir, labels, feature)
    name, files = content.name, content.files
    if not any(text.strip() for _, text in files):
        raise InputError(f"{name} holds no text: point data.source to one that does.")
    special = len(SPECIAL) if lines else 0
    if tokenizer is None:
        texts = [text for _, text in files]
        if lines:
            texts = [line.strip() for text in texts for _, line in _numbered(text)]
        tokenizer = build_tokenizer(tokens, texts, vocab_size, special)
    if lines and tokenizer.special < special:
        raise InputError("the tokenizer of lines needs tokens for padding, start and end in front")
    if lines:
        return _lines(content, split, tokenizer, length, held_out, long_lines)
    return _windows(name, split, files, tokenizer, length, held_out)


def _windows(name, split, files, tokenizer, length, held_out):
    parts = [_encode(tokenizer, text, path) for path, text in files]
    stream = np.concatenate(parts)
    stream = stream.astype(np.min_scalar_type(max(tokenizer.vocab_size - 1, 1)))
    kept = held_out * length + 1 if held_out else 0
    if len(stream) - kept < length + 1:
        raise InputError(
            f"{name} has {len(stream)} tokens: with data.held_out {held_out} windows of "
            f"data.text.length {length} fewer than one are left to train on; lower one of them."
        )
    characters = sum(len(text) for _, text in files)
    end = len(stream) - kept
    start = _newline(tokenizer, stream)
    form = TextForm(tokenizer.vocab_size, length, True, start, tokenizer=tokenizer)
    # Views: every place of the text begins a window, and none takes memory of its own.
    every = np.lib.stride_tricks.sliding_window_view(stream[:end], length + 1)
    number = fingerprint(stream[:end], str(length))
    share = characters / len(stream)
    characters -= _characters(tokenizer, stream[end:], share)
    train = _dataset(name, split, every, number, form, characters)
    if not kept:
        return train, None
    apart = np.lib.stride_tricks.sliding_window_view(stream[end:], length + 1)[::length]
    number = fingerprint(stream[end:], str(length))
    # The first token of these is only looked at.
    characters = _characters(tokenizer, stream[end + 1 :], share)
    return train, _dataset(name, "held out", apart, number, form, characters)


def _characters(tokenizer: Tokenizer, tokens: np.ndarray, share: float) -> int:
    """Return how many characters tokens stand for: of words, whose spaces are lost, by `share`."""
    if isinstance(tokenizer, Symbols):
        return round(len(tokens) * share)
    return len(tokenizer.decode(tokens))


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not blank."""
    # Not splitlines: that also ends lines where editors do not.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _newline(tokenizer: Tokenizer, stream: np.ndarray) -> int:
    """Return the token to begin with: of a new line where there is one, else the first."""
    try:
        found = tokenizer.encode("\n")
    except UnknownSymbolError:
        found = ()
    return int(found[0]) if len(found) == 1 else int(stream[0])


def _lines(content, split, tokenizer, length, held_out, long_lines):
    name, rows, characters, classes = content.name, [], [], []
    for index, (path, text) in enumerate(content.files):
        for number, line in _numbered(text):
            indent, line = len(line) - len(line.lstrip()), line.strip()
            found = whole = _encode(tokenizer, line, path, number, indent)
            if len(found) + 1 > length:
                if long_lines == "refuse":
                    raise InputError(
                        f"{path}, line {number}, has {len(found)} tokens and its end, more than "
                        f"data.text.length {length}: raise it, or set data.text.long_lines to cut "
                        "or drop."
                    )
                if long_lines == "drop":
                    continue
                found = found[: length - 1]
            row = np.full(length, PAD_TOKEN, np.int32)
            row[: len(found)] = found
            row[len(found)] = END_TOKEN
            rows.append(row)
            if content.labels is not None:
                classes.append(content.labels[index][number - 1])
            characters.append(round(len(line) * len(found) / max(len(whole), 1)) + 1)
    if not rows:
        raise InputError(f"{name} has no line of up to {length} tokens: raise data.text.length.")
    array = np.stack(rows).astype(np.min_scalar_type(max(tokenizer.vocab_size - 1, 1)))
    form = TextForm(
        tokenizer.vocab_size, length, False, START_TOKEN, END_TOKEN, PAD_TOKEN, tokenizer
    )
    dataset = _dataset(name, split, array, fingerprint(array), form, 0)
    if content.labels is not None:
        dataset = _labelled(dataset, np.array(classes), content.class_names)
    # For a moment, so that they are split, too.
    dataset.arrays["characters"] = np.array(characters)
    train, kept = dataset.hold_out(held_out)
    return _counted(train), None if kept is None else _counted(kept)


def _labelled(dataset: TextDataset, label: np.ndarray, class_names: tuple[str, ...]):
    label, num_classes = check_labels(dataset.name, label, len(label), len(class_names))
    return dataclasses.replace(
        dataset,
        features={**dataset.features, "label": ((), label.dtype)},
        arrays={**dataset.arrays, "label": label},
        num_classes=num_classes,
        class_names=class_names,
        fingerprint=fingerprint(dataset.fingerprint, label),
    )


def _counted(dataset: TextDataset) -> TextDataset:
    arrays = dict(dataset.arrays)
    count = int(arrays.pop("characters").sum())
    return dataclasses.replace(dataset, arrays=arrays, num_characters=count)


def _oracle(seed, length, held_out):
    oracle = Oracle(length, seed=seed)
    tokens = oracle.sample(ORACLE_EXAMPLES + held_out, seed=seed)
    name = f"oracle {seed} (built in)"
    form = TextForm(oracle.vocab_size, length, start_token=oracle.start_token)
    whole = _dataset(name, "train", tokens.astype(np.uint16), fingerprint(tokens), form, 0)
    return whole.hold_out(held_out)


def _dataset(name, split, tokens, number, form, num_characters) -> TextDataset:
    return TextDataset(
        name=name,
        split=split,
        features={"tokens": (tokens.shape[1:], tokens.dtype)},
        num_classes=0,
        class_names=(),
        arrays={"tokens": tokens},
        num_examples=len(tokens),
        fingerprint=number,
        form=form,
        num_characters=num_characters,
    )


def _encode(
    tokenizer: Tokenizer, text: str, path: str, line: int = 1, indent: int = 0
) -> np.ndarray:
    """Return the tokens of a text that begins in a line of a file, after `indent` characters."""
    try:
        return tokenizer.encode(text)
    except UnknownSymbolError as error:
        line += text.count("\n", 0, error.position)
        begin = text.rfind("\n", 0, error.position) + 1
        column = error.position - begin + (0 if begin else indent)
        there = UnknownSymbolError(error.symbol, column, error.vocab_size)
        raise InputError(f"{path}, line {line}: {there}") from error


class _Content(NamedTuple):
    """What a source holds.

    Attributes:
      name: what people call it.
      files: (path, text) of each.
      labels: of each file the class of each of its lines, or None.
      class_names: one name a class.
    """

    name: str
    files: list[tuple[str, str]]
    labels: list[np.ndarray] | None = None
    class_names: tuple[str, ...] = ()


def _read(
    source: str, split: str, data_dir: str | None, labels: bool, feature: str | None
) -> _Content:
    if source in TEXTS:
        if labels:
            raise InputError(f"{source} is one text{_NO_CLASSES}")
        path = _BUILTIN / TEXTS[source]
        return _Content(f"{source} (built in)", [(source, _text(path))])
    if source.startswith("tfds:"):
        from ganjax.data.tfds import texts

        found, label, class_names = texts(
            source.removeprefix("tfds:"),
            split=split,
            data_dir=data_dir,
            feature=feature,
            labels=labels,
        )
        files = [(source, "\n".join(found) + "\n")]
        if label is None:
            return _Content(source, files)
        # A text may have several lines.
        per_line = np.repeat(label, [text.count("\n") + 1 for text in found])
        return _Content(source, files, [per_line], class_names)
    path = Path(os.path.expanduser(source))
    if not os.path.exists(path):
        known = ", ".join(TEXTS)
        raise InputError(
            f"there is no text {source[:200]!r}: built in is {known}; others are oracle, "
            "tfds:NAME, or the path of a .txt, a .txt.gz or a folder of them."
        )
    if path.is_dir():
        return _read_classes(path, split) if labels else _read_folder(path, split)
    if labels:
        raise InputError(f"{path} is one text{_NO_CLASSES}")
    if split != "train":
        raise InputError(f"{path} has no split {split!r}: leave data.split out.")
    return _Content(str(path), [(str(path), _text(path))])


def _read_folder(path: Path, split: str) -> _Content:
    files = _texts_in(path)
    named = [p for p in files if p.name.partition(".")[0] == split]
    if (path / split).is_dir():
        named = _texts_in(path / split)
    if not named and split != "train":
        raise InputError(f"{path} has no {split}.txt and no folder {split}.")
    if not files and not named:
        raise InputError(f"{path} holds no .txt and no .txt.gz.")
    files = named or [p for p in files if p.name.partition(".")[0] not in OTHER_SPLITS]
    if not files:
        raise InputError(
            f"{path} has no text to train on, only other splits: name a file train.txt, or set "
            "data.split."
        )
    return _Content(str(path), [(str(p), _text(p)) for p in files])


def _read_classes(path: Path, split: str) -> _Content:
    """Read a folder in which every text, or every folder of texts, is a class."""
    within, others = path, ("train", *OTHER_SPLITS)
    if (path / split).is_dir():
        within, others = path / split, ()
    elif split != "train":
        raise InputError(f"{path} has no folder {split} with the texts of each class.")
    classes: dict[str, list[Path]] = {}
    for text_path in _texts_in(within):
        name = text_path.name.removesuffix(".gz").removesuffix(".txt")
        if not name.startswith("."):
            classes.setdefault(name, []).append(text_path)
    with reading(str(within)):
        inner = sorted(p for p in within.iterdir() if p.is_dir() and p.name not in others)
    inner = [p for p in inner if not p.name.startswith((".", "__"))]
    folders = {p.name: texts for p in inner if (texts := _texts_in(p))}
    if folders and classes:
        raise InputError(
            f"{within} holds both texts ({next(iter(classes))}) and folders of texts "
            f"({next(iter(folders))}), and either could be the classes: move one of them away."
        )
    classes = classes or folders
    if len(classes) < 2:
        raise InputError(f"{within} has the classes {sorted(classes)}{_NO_CLASSES}")
    files, per_line = [], []
    for number, (name, paths) in enumerate(sorted(classes.items())):
        texts = [(str(p), _text(p)) for p in paths]
        if not any(text.strip() for _, text in texts):
            raise InputError(f"{within} has nothing of the class {name}: take its text away.")
        files += texts
        per_line += [np.full(text.count("\n") + 1, number) for _, text in texts]
    return _Content(str(path), files, per_line, tuple(sorted(classes)))


def _texts_in(folder: Path) -> list[Path]:
    with reading(str(folder)):
        return sorted(p for p in folder.iterdir() if p.name.endswith(_ENDINGS))


def _text(path: Path) -> str:
    """Return what a file holds; the sentence of an error names the line."""
    with opened(path) as (file, packed):
        content = read_at_most(file, _LARGEST_BYTES + 1, str(path), packed)
    if len(content) > _LARGEST_BYTES:
        raise InputError(f"{path} holds more than {_LARGEST_BYTES >> 30} GiB: split it.")
    if not content:
        raise InputError(f"{path} is empty: point data.source to a text.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Of the content without a byte order mark.
        line = error.object.count(b"\n", 0, error.start) + 1
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
        raise InputError(
            f"{path}, line {line}, is not UTF-8 (byte {error.object[error.start]:#04x}): convert "
            f"it, for instance with `iconv -f {encoding or 'latin1'} -t utf-8`."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}, has a zero byte: it is no text.")
    return text.replace("\r\n", "\n").replace("\r", "\n")
