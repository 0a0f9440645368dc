import gzip
import io
import json

import numpy as np
import pytest

from ganjax.data import TextForm, build_tokenizer, load_text
from ganjax.data.text import END_TOKEN, PAD_TOKEN, START_TOKEN
from ganjax.data.tokenizers import UNKNOWN
from ganjax.types import InputError

TEXT = "".join(f"line {i} of a text\n" for i in range(60))
LINES = "a cat\n\n  the cat sat  \non the mat\nend"


def write(path, content):
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.fixture
def text(tmp_path):
    return write(tmp_path / "a.txt", TEXT)


@pytest.fixture
def lines(tmp_path):
    return write(tmp_path / "lines.txt", LINES)


def read_back(dataset):
    """Return the text of every example."""
    rows = dataset.batch(np.arange(dataset.num_examples))["tokens"]
    return [dataset.form.decode(row) for row in rows]


@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_every_place_of_a_text_begins_a_window(text, tokens):
    train, held_out = load_text(text, tokens=tokens, length=7, held_out=0)
    assert held_out is None
    assert train.num_examples == len(TEXT) - 7
    assert read_back(train) == [TEXT[i : i + 8] for i in range(len(TEXT) - 7)]
    assert train.num_characters == len(TEXT)


def test_windows_take_no_memory_of_their_own(text):
    train, held_out = load_text(text, length=7, held_out=5)
    windows = train.arrays["tokens"]
    assert np.shares_memory(windows[0], windows[1])
    assert windows.strides == (1, 1)
    assert held_out.arrays["tokens"].strides == (7, 1)
    assert not np.shares_memory(train.batch(np.arange(2))["tokens"], windows)


def test_the_held_out_windows_follow_the_training_text_and_share_nothing_with_it(text):
    length, count = 7, 5
    train, held_out = load_text(text, length=length, held_out=count)
    assert (train.split, held_out.split) == ("train", "held out")
    assert held_out.num_examples == count
    windows = read_back(held_out)
    # The first token of each is only looked at: it is the last of the window before.
    kept = windows[0] + "".join(window[1:] for window in windows[1:])
    assert TEXT.endswith(kept)
    assert len(kept) == count * length + 1
    assert read_back(train)[-1] == TEXT[: -len(kept)][-length - 1 :]
    assert not np.shares_memory(train.arrays["tokens"], held_out.arrays["tokens"])
    assert held_out.num_characters == count * length
    assert train.num_characters == len(TEXT) - len(kept)


def test_what_is_held_out_is_measured_by_its_own_characters(tmp_path):
    # One byte a character in the first part, three in the second.
    path = write(tmp_path / "a.txt", "a" * 3000 + "☕" * 100)
    train, held_out = load_text(path, tokens="bytes", length=6, held_out=50)
    assert (train.num_characters, held_out.num_characters) == (2999, 100)
    _, held_out = load_text("tiny_shakespeare", tokens="bytes", length=64, held_out=10)
    assert held_out.num_characters == 640


def test_words_of_a_stream_stand_for_an_average_of_characters(tmp_path):
    path = write(tmp_path / "a.txt", "four " * 100)
    train, held_out = load_text(path, tokens="words", length=5, held_out=4)
    assert held_out.num_characters == 4 * 5 * len("four ")
    assert train.num_characters == 500 - 105


@pytest.mark.parametrize(
    ("symbols", "dtype"), [(4, np.uint8), (256, np.uint8), (257, np.uint16), (5000, np.uint16)]
)
@pytest.mark.parametrize("lines", [False, True])
def test_tokens_are_of_the_smallest_type(tmp_path, symbols, dtype, lines):
    words = "\n".join(f"w{i}" for i in range(symbols - 3 * lines))
    path = write(tmp_path / "a.txt", words)
    dataset, _ = load_text(path, tokens="words", length=2, lines=lines, held_out=0)
    tokens = dataset.arrays["tokens"]
    assert dataset.form.vocab_size == symbols
    assert tokens.dtype == dtype == dataset.features["tokens"][1]
    assert tokens.max() == symbols - 1


def test_writing_begins_with_a_new_line_where_there_is_one(tmp_path, text):
    form = load_text(text, held_out=0)[0].form
    assert form.tokenizer.decode([form.start_token]) == "\n"
    assert (form.windows, form.length, form.stop_token, form.pad_token) == (True, 64, None, None)
    for tokens in ("characters", "words"):
        path = write(tmp_path / "b.txt", "now is the time " * 9)
        dataset, _ = load_text(path, tokens=tokens, length=5, held_out=0)
        assert dataset.form.start_token == dataset.arrays["tokens"][0, 0]


def test_lines_get_an_end_and_padding(lines):
    dataset, _ = load_text(lines, tokens="words", length=5, lines=True, held_out=0)
    words = {word: i for i, word in enumerate(sorted(set(LINES.split())), 3)}
    expected = np.full((4, 5), PAD_TOKEN)
    for row, line in zip(expected, filter(None, LINES.split("\n")), strict=True):
        tokens = [words[word] for word in line.split()]
        row[: len(tokens) + 1] = [*tokens, END_TOKEN]
    np.testing.assert_array_equal(dataset.arrays["tokens"], expected)
    assert read_back(dataset) == ["a cat", "the cat sat", "on the mat", "end"]
    form = dataset.form
    assert (form.start_token, form.stop_token, form.pad_token) == (
        START_TOKEN,
        END_TOKEN,
        PAD_TOKEN,
    )
    assert (form.vocab_size, form.windows) == (len(words) + 3, False)
    assert dataset.num_characters == sum(len(line) + 1 for line in read_back(dataset))


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
def test_lines_of_other_tokens(lines, tokens):
    dataset, _ = load_text(lines, tokens=tokens, length=12, lines=True, held_out=0)
    assert read_back(dataset) == ["a cat", "the cat sat", "on the mat", "end"]


def test_characters_of_lines_have_no_end_of_a_line(lines):
    dataset, _ = load_text(lines, length=12, lines=True, held_out=0)
    assert dataset.form.tokenizer.symbols == tuple(sorted(set(LINES) - {"\n"}))


def test_held_out_lines_are_the_same_each_time_and_all_are_there(tmp_path):
    every = [f"{'x' * (i % 7)} {i}".strip() for i in range(40)]
    path = write(tmp_path / "a.txt", "\n".join(every))
    options = {"tokens": "bytes", "length": 12, "lines": True, "held_out": 10}
    train, held_out = load_text(path, **options)
    assert sorted(read_back(train) + read_back(held_out)) == sorted(every)
    assert read_back(held_out) == read_back(load_text(path, **options)[1])
    assert held_out.num_examples == 10
    for part in (train, held_out):
        assert set(part.arrays) == {"tokens"}
        assert part.num_characters == sum(len(line) + 1 for line in read_back(part))


@pytest.mark.parametrize(
    ("long_lines", "expected"),
    [("cut", ["a cat", "the ca", "on the", "end"]), ("drop", ["a cat", "end"])],
)
def test_lines_that_are_too_long(lines, long_lines, expected):
    options = {"length": 7, "lines": True, "held_out": 0}
    with pytest.raises(InputError, match=r"lines\.txt, line 3, has 11 tokens and its end, more"):
        load_text(lines, **options)
    dataset, _ = load_text(lines, long_lines=long_lines, **options)
    assert read_back(dataset) == expected
    assert dataset.num_characters == sum(len(line) + 1 for line in expected)


def test_a_line_may_be_as_long_as_the_length_with_its_end(lines):
    assert load_text(lines, length=12, lines=True, held_out=0)[0].num_examples == 4
    with pytest.raises(InputError, match="11 tokens and its end"):
        load_text(lines, length=11, lines=True, held_out=0)


def test_only_line_feeds_and_carriage_returns_end_lines(tmp_path):
    path = write(tmp_path / "a.txt", "one\x0ctwo\u2028three\rfour\r\nfive\nlong enough to refuse")
    dataset, _ = load_text(path, length=30, lines=True, held_out=0)
    assert read_back(dataset) == ["one\x0ctwo\u2028three", "four", "five", "long enough to refuse"]
    with pytest.raises(InputError, match="line 4, has 21"):
        load_text(path, length=20, lines=True, held_out=0)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "zipped, whatever it is called"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_one_text_however_it_is_written(tmp_path, name, start, newline):
    content = start + TEXT.encode().replace(b"\n", newline)
    path = write(tmp_path / name, gzip.compress(content) if "zipped" in name else content)
    dataset, _ = load_text(path, length=len(TEXT) - 1, held_out=0)
    assert read_back(dataset) == [TEXT]
    plain, _ = load_text(write(tmp_path / "plain.txt", TEXT), length=len(TEXT) - 1, held_out=0)
    assert dataset.fingerprint == plain.fingerprint


def test_fingerprints_depend_on_content_and_length(tmp_path, text):
    other = write(tmp_path / "b.txt", TEXT.replace("7", "8", 1))
    parts = [
        part.fingerprint
        for source, length in ((text, 8), (text, 9), (other, 8))
        for part in load_text(source, length=length, held_out=9)
    ]
    assert len(set(parts)) == 5  # the end of both texts is the same
    assert parts[1] == parts[5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.txt is empty"),
        (
            "eins\nzwei\nfünf".encode("latin1"),
            r"a\.txt, line 3, is not UTF-8 \(byte 0xfc\).* -f latin1",
        ),
        (b"\xef\xbb\xbfa\nb\xe9\n", r"a\.txt, line 2, is not .*\(byte 0xe9\).*-f latin1"),
        ("text".encode("utf-16"), r"a\.txt, line 1, is not .*\(byte 0xff\).*iconv -f utf-16 -t"),
        ("text".encode("utf-32"), r"a\.txt, line 1, is not .*\(byte 0xff\).*iconv -f utf-32 -t"),
        (b"\xfe\xff\0t", r"a\.txt, line 1, is not .*\(byte 0xfe\).*iconv -f utf-16 -t"),
        (b"a\nb\nc\0d", r"a\.txt, line 3, has a zero byte"),
        (gzip.compress(b""), r"a\.txt is empty"),
        (gzip.compress(b"a\nb\xff"), r"a\.txt, line 2, is not UTF-8"),
        (gzip.compress(TEXT.encode())[:-20], r"a\.txt cannot be read .*see whether it is whole"),
        (gzip.compress(TEXT.encode())[:12] + b"rest" * 9, r"a\.txt cannot be read"),
        (b"\x1f\x8bnonsense", r"a\.txt cannot be read"),
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_a_file_that_is_no_text_is_named(tmp_path, content, message, lines):
    write(tmp_path / "a.txt", content)
    for source in (tmp_path / "a.txt", tmp_path):
        with pytest.raises(InputError, match=message):
            load_text(str(source), held_out=0, lines=lines)


@pytest.mark.parametrize("content", [b" \n\r\n\t", b"\xef\xbb\xbf"])
def test_a_file_without_a_letter_is_refused_unless_others_have_some(tmp_path, content):
    path = write(tmp_path / "a.txt", content)
    for source in (path, str(tmp_path)):
        with pytest.raises(InputError, match="holds no text"):
            load_text(source, held_out=0)
    write(tmp_path / "b.txt", "text")
    dataset, _ = load_text(str(tmp_path), length=5, lines=True, held_out=0)
    assert read_back(dataset) == ["text"]


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_all_there(tmp_path, monkeypatch):
    read = []

    class Endless(io.BytesIO):
        def read(self, size):
            read.append(size)
            return b"a" * size

    monkeypatch.setattr("ganjax.data.text._LARGEST_BYTES", 1 << 26)
    monkeypatch.setattr("gzip.GzipFile", lambda fileobj: Endless())
    with pytest.raises(InputError, match=r"a\.txt\.gz holds more than"):
        load_text(write(tmp_path / "a.txt.gz", "a"))
    assert sum(read) < 1 << 27


def test_folders(tmp_path):
    write(tmp_path / "b.txt.gz", "second\n")
    write(tmp_path / "a.txt", "first\n")
    write(tmp_path / "notes.md", b"\0 not looked at")
    dataset, _ = load_text(str(tmp_path), length=12, held_out=0)
    assert read_back(dataset) == ["first\nsecond\n"]
    with pytest.raises(InputError, match=r"has no test\.txt and no folder test"):
        load_text(str(tmp_path), split="test")


@pytest.mark.parametrize("name", ["{}.txt", "{}.txt.gz", "{}/one.txt"])
def test_folders_of_splits(tmp_path, name):
    write(tmp_path / name.format("train"), "training\n")
    write(tmp_path / name.format("test"), "testing\n")
    for split, expected in (("train", "training"), ("test", "testing")):
        dataset, _ = load_text(str(tmp_path), split=split, length=9, lines=True, held_out=0)
        assert read_back(dataset) == [expected]
        assert dataset.split == split
        assert dataset.name == str(tmp_path)
    with pytest.raises(InputError, match=r"has no val\.txt"):
        load_text(str(tmp_path), split="val")


@pytest.mark.parametrize("split", ["test", "valid", "validation", "val", "dev"])
def test_other_splits_are_not_trained_on(tmp_path, split):
    write(tmp_path / f"{split}.txt", "testing\n")
    write(tmp_path / split / "more.txt", "testing\n")
    options = {"length": 9, "lines": True, "held_out": 0}
    with pytest.raises(InputError, match=r"no text to train on, only other splits: name a file t"):
        load_text(str(tmp_path), **options)
    write(tmp_path / "a.txt", "training\n")
    assert read_back(load_text(str(tmp_path), **options)[0]) == ["training"]
    (tmp_path / split / "more.txt").unlink()
    (tmp_path / split).rmdir()
    assert read_back(load_text(str(tmp_path), split=split, **options)[0]) == ["testing"]


def test_sources_that_are_not_there(tmp_path, text):
    with pytest.raises(InputError, match=r"no text '.*none\.txt': built in is tiny_shakespeare"):
        load_text(str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match=r"a\.txt has no split 'test'"):
        load_text(text, split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no \.txt and no \.txt\.gz"):
        load_text(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "data.text.length has to be 1 or more, got 0"),
        ({"held_out": -1}, "data.held_out has to be 0 or more, got -1"),
        ({"long_lines": "wrap"}, "data.text.long_lines is 'wrap', expected refuse, cut or drop"),
        ({"tokens": "letters"}, "data.text.tokens is 'letters'"),
        ({"vocab_size": 1}, "data.text.vocab_size has to be 2 or more"),
        ({"length": len(TEXT)}, f"has {len(TEXT)} tokens: with data.held_out 0 windows"),
        ({"length": 64, "held_out": 20}, "windows of data.text.length 64 fewer than one are left"),
        ({"lines": True, "length": 3, "long_lines": "drop"}, "has no line of up to 3 tokens"),
        ({"lines": True, "held_out": 60}, "has 60 examples and data.held_out is 60"),
    ],
)
def test_other_settings_are_refused(text, options, message):
    with pytest.raises(InputError, match=message):
        load_text(text, **{"held_out": 0, **options})


def test_the_shortest_text_that_is_enough(tmp_path):
    path = write(tmp_path / "a.txt", "abcdefgh")
    train, held_out = load_text(path, length=2, held_out=2)
    assert (read_back(train), read_back(held_out)) == (["abc"], ["def", "fgh"])
    with pytest.raises(InputError, match="has 8 tokens"):
        load_text(path, length=2, held_out=3)


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("words", [False, True])
def test_a_symbol_that_a_given_tokenizer_lacks_is_named_with_its_line(tmp_path, lines, words):
    tokenizer = build_tokenizer("words" if words else "characters", ["category cat\n"], None, 3)
    write(tmp_path / "train" / "a.txt", "cat category\ncat\n")
    write(tmp_path / "train" / "b.txt", "category\ncat\n\ncat at dog\n")
    place = r"'at' \(character 5\)" if words else r"'d' \(character 8\)"
    with pytest.raises(InputError, match=rf"b\.txt, line 4: the symbol {place}"):
        load_text(str(tmp_path), tokenizer=tokenizer, length=13, lines=lines, held_out=0)


@pytest.mark.parametrize("lines", [False, True])
def test_a_symbol_is_counted_in_its_line_with_what_indents_it(tmp_path, lines):
    tokenizer = build_tokenizer("characters", ["cat \n"], None, 3)
    path = write(tmp_path / "a.txt", "  caZ\n")
    with pytest.raises(InputError, match=r"a\.txt, line 1: the symbol 'Z' \(character 5\)"):
        load_text(path, tokenizer=tokenizer, length=5, lines=lines, held_out=0)


def test_a_given_tokenizer_is_the_one_that_is_used(lines):
    tokenizer = build_tokenizer("words", ["the cat sat on a mat at the end"], special=3)
    dataset, _ = load_text(lines, tokenizer=tokenizer, length=5, lines=True, held_out=0)
    assert dataset.form.tokenizer is tokenizer
    assert dataset.arrays["tokens"][3, 0] == tokenizer.encode("end")[0]


def test_one_line_cannot_be_held_out(tmp_path):
    path = write(tmp_path / "one.txt", "a line\n")
    with pytest.raises(InputError, match=r"has 1 example and data\.held_out is 9: set it to 0\."):
        load_text(path, length=9, lines=True, held_out=9)


def test_a_given_tokenizer_without_special_tokens_is_refused_for_lines(lines):
    tokenizer = build_tokenizer("bytes", [])
    with pytest.raises(InputError, match="tokenizer of lines needs tokens for padding, start and"):
        load_text(lines, tokenizer=tokenizer, lines=True, held_out=0)
    assert load_text(lines, tokenizer=tokenizer, length=9, held_out=0)[0].form.vocab_size == 256


def test_a_small_vocabulary_has_unknown_words(lines):
    dataset, _ = load_text(lines, tokens="words", vocab_size=3, length=5, lines=True, held_out=0)
    assert dataset.form.vocab_size == 3 + 3
    assert read_back(dataset)[1] == f"the cat {UNKNOWN}"


@pytest.mark.parametrize("tokens", ["characters", "bytes", "words", "bpe", None])
@pytest.mark.parametrize("lines", [False, True])
def test_a_form_returns_from_json(text, tokens, lines):
    form = TextForm(50, 20, lines, 1, 2)
    if tokens is not None:
        form = load_text(text, tokens=tokens, length=40, lines=lines, held_out=0)[0].form
    stored = TextForm.from_json(json.loads(json.dumps(form.to_json())))
    assert stored.to_json() == form.to_json()
    if tokens != "bpe":
        assert stored == form
    if tokens is not None:
        line = TEXT[:16]
        np.testing.assert_array_equal(stored.tokenizer.encode(line), form.tokenizer.encode(line))


@pytest.mark.parametrize(
    "value",
    [{}, None, {"tokenizer": None}, {"tokenizer": None, "vocab_size": 5, "length": 5, "more": 1}],
)
def test_what_is_no_stored_form_is_refused(value):
    with pytest.raises(InputError, match="this is no form of text"):
        TextForm.from_json(value)
    with pytest.raises(InputError, match="this is no vocabulary"):
        TextForm.from_json({"vocab_size": 5, "length": 5, "tokenizer": {"kind": "letters"}})


@pytest.mark.parametrize(
    ("stop", "expected"), [(None, "7 2 5 2 0"), (2, "7"), (7, ""), (9, "7 2 5 2 0")]
)
def test_tokens_that_are_no_text_are_written_as_numbers_up_to_the_stop(stop, expected):
    form = TextForm(10, 5, stop_token=stop)
    assert form.decode([7, 2, 5, 2, 0]) == expected


def test_the_oracle_is_data_of_numbers(monkeypatch):
    monkeypatch.setattr("ganjax.data.text.ORACLE_EXAMPLES", 30)
    monkeypatch.setattr("ganjax.data.oracle._PART", 50)
    train, held_out = load_text("oracle", length=6, held_out=20, oracle_seed=3)
    again, _ = load_text("oracle", length=6, held_out=20, oracle_seed=3)
    other, _ = load_text("oracle", length=6, held_out=20, oracle_seed=4)
    assert (train.num_examples, held_out.num_examples) == (30, 20)
    assert train.features["tokens"] == ((6,), np.uint16)
    assert train.fingerprint == again.fingerprint != other.fingerprint
    assert train.form == TextForm(5000, 6)
    assert train.num_characters == 0
    assert read_back(train)[0].split() == [str(i) for i in train.arrays["tokens"][0]]


def test_tiny_shakespeare_is_whole():
    train, held_out = load_text("tiny_shakespeare", length=128, held_out=100)
    assert train.form.vocab_size == 65
    assert train.num_characters + held_out.num_characters == 1_115_394 - 1
    assert train.form.decode(train.arrays["tokens"][0]).startswith("First Citizen:\nBefore we")


@pytest.mark.parametrize(
    ("name", "length", "words"),
    [("coco_captions_train", 36, 6094), ("coco_captions_test", 40, 5507)],
)
def test_real_captions(real_data, name, length, words):
    path = real_data / "text" / f"{name}.txt.gz"
    train, held_out = load_text(str(path), tokens="words", length=length, lines=True, held_out=500)
    assert (train.num_examples, held_out.num_examples) == (9500, 500)
    assert train.form.vocab_size - 3 == words
    with gzip.open(path, "rt", encoding="utf-8") as file:
        expected = sorted(" ".join(line.split()) for line in file)
    assert sorted(read_back(train) + read_back(held_out)) == expected


def test_real_news_of_a_stream_of_words(real_data):
    path = real_data / "text" / "wikitext2_valid.txt.gz"
    train, _ = load_text(str(path), tokens="words", vocab_size=2000, length=35, held_out=10)
    assert train.form.vocab_size == 2000
    first = train.form.decode(train.arrays["tokens"][0])
    assert first.startswith("= ")


@pytest.mark.parametrize(
    "names", [("cats.txt", "dogs.txt.gz"), ("train/cats.txt", "train/dogs.txt", "test/dogs.txt")]
)
def test_files_are_classes(tmp_path, names):
    for name in (*names, names[0] + ".gz"):
        word = "dog" if "dogs" in name else "cat"
        write(tmp_path / name, "".join(f"{word} {i}\n\n" for i in range(9)) + f"a {word} too long")
    options = {"length": 7, "lines": True, "long_lines": "drop"}
    train, held_out = load_text(str(tmp_path), labels=True, held_out=5, **options)
    assert train.class_names == held_out.class_names == ("cats", "dogs")
    assert train.features["label"][0] == ()
    assert train.num_classes == 2
    assert (train.num_examples, held_out.num_examples) == (22, 5)
    for part in (train, held_out):
        rows = part.batch(np.arange(part.num_examples))
        for row, label in zip(rows["tokens"], rows["label"], strict=True):
            assert part.form.decode(row)[:3] == ("cat", "dog")[label]
    plain, _ = load_text(str(tmp_path), held_out=5, **options)
    assert "label" not in plain.features
    assert plain.fingerprint != train.fingerprint


@pytest.mark.parametrize("wrapper", ["", "train/"])
def test_folders_are_classes(tmp_path, wrapper):
    for name in ("pos/0_9.txt", "pos/1_7.txt", "neg/0_1.txt"):
        path = tmp_path / (wrapper + name)
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f"it was {name[:3]}")
    options = {"length": 20, "lines": True, "held_out": 0}
    dataset, _ = load_text(str(tmp_path), labels=True, **options)
    found = dict(zip(read_back(dataset), dataset.arrays["label"].tolist(), strict=True))
    assert (found, dataset.class_names) == ({"it was neg": 0, "it was pos": 1}, ("neg", "pos"))
    assert dataset.num_examples == 3
    with pytest.raises(InputError, match=r"holds no \.txt"):
        load_text(str(tmp_path), **options)
    for hidden in (".old/a.txt", "__MACOSX/b.txt", ".c.txt"):
        path = tmp_path / wrapper / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_text("hidden")
    again, _ = load_text(str(tmp_path), labels=True, **options)
    assert again.class_names == ("neg", "pos")
    (tmp_path / wrapper / "urls_pos.txt").write_text("no review")
    with pytest.raises(InputError, match=r"both texts \(urls_pos\) and folders of texts \(neg\)"):
        load_text(str(tmp_path), labels=True, **options)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "a.txt",
            {"lines": True},
            "a.txt is one text, expected two classes or more: point data.source to a",
        ),
        ("alone", {"lines": True}, r"has the classes \['a'\], expected two classes or more"),
        (".", {"lines": True, "split": "test"}, "has no folder test with the texts of each class"),
        (
            "with blank",
            {"lines": True},
            "with blank has nothing of the class b: take its text away",
        ),
        (
            "tiny_shakespeare",
            {"lines": True},
            "tiny_shakespeare is one text, expected two classes or more",
        ),
        ("a.txt", {}, "classes are of lines: set data.text.lines, or model.conditional to False"),
        ("oracle", {}, "an oracle's sequences have no classes: set model.conditional to False"),
    ],
)
def test_texts_without_classes(tmp_path, monkeypatch, source, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "a line")
    write(tmp_path / "alone" / "a.txt", "a line")
    write(tmp_path / "with blank" / "a.txt", "a line")
    write(tmp_path / "with blank" / "b.txt", "\n\n")
    with pytest.raises(InputError, match=message):
        load_text(source, labels=True, **options)


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    for name in ("dev", "sales"):
        write(tmp_path / f"{name}.txt", f"{name} 1")
    dataset, _ = load_text(str(tmp_path), labels=True, lines=True, length=9, held_out=0)
    assert dataset.class_names == ("dev", "sales")
