import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganjax.data import build_tokenizer
from ganjax.data.tokenizers import (
    TOKENIZERS,
    UNKNOWN,
    BytePairs,
    Bytes,
    Symbols,
    UnknownSymbolError,
    from_json,
    read_tokenizer,
)
from ganjax.types import InputError

SENTENCES = ["a cat sat on the mat", "the cat and the naïve mat ☕", "on and on"]


def with_settings(tokenizer, **changes):
    """Return a tokenizer.json that sets more than the vocabulary, as published ones do."""
    return json.dumps(tokenizer.to_json()["content"] | changes)


@pytest.fixture(scope="module")
def pairs():
    return build_tokenizer("bpe", SENTENCES * 20, 300)


@pytest.mark.parametrize("special", [0, 3])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_returns_after_encoding_and_after_storing(kind, special):
    tokenizer = build_tokenizer(kind, SENTENCES, special=special)
    stored = from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert (stored.vocab_size, stored.special) == (tokenizer.vocab_size, special)
    for text in (*SENTENCES, ""):
        tokens = tokenizer.encode(text)
        assert tokens.dtype == np.int32
        assert ((special <= tokens) & (tokens < tokenizer.vocab_size)).all()
        np.testing.assert_array_equal(stored.encode(text), tokens)
        assert tokenizer.decode(tokens) == stored.decode(tokens) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_come_first_and_give_no_text(kind):
    plain, marked = (build_tokenizer(kind, SENTENCES, special=special) for special in (0, 3))
    assert marked.vocab_size == plain.vocab_size + 3
    tokens = marked.encode("the cat")
    np.testing.assert_array_equal(tokens, plain.encode("the cat") + 3)
    assert marked.decode(np.concatenate([[1], tokens, [2, 0, 0]])) == "the cat"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("kind", ["characters", "bytes", "words"])
def test_tokens_of_every_integer_type_are_decoded(kind, dtype):
    tokenizer = build_tokenizer(kind, SENTENCES, special=3)
    tokens = tokenizer.encode("on the mat")[:50].astype(dtype)
    assert tokenizer.decode(tokens) == "on the mat"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40), st.sampled_from([0, 3]))
def test_any_text_returns_from_bytes(text, special):
    tokenizer = Bytes(special)
    tokens = tokenizer.encode(text)
    assert [int(token) - special for token in tokens] == list(text.encode())
    assert tokenizer.decode(tokens) == text


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40), st.data())
def test_any_text_returns_from_its_own_characters(text, data):
    tokenizer = build_tokenizer("characters", [text])
    part = text and "".join(data.draw(st.lists(st.sampled_from(text))))
    assert tokenizer.vocab_size == len(set(text))
    assert tokenizer.decode(tokenizer.encode(part)) == part


def test_broken_bytes_are_replaced():
    whole = Bytes().encode("aé")
    assert Bytes().decode(whole[:-1]) == "a�"


def test_characters_are_numbered_in_their_order():
    tokenizer = build_tokenizer("characters", ["cab", "d"])
    assert tokenizer.symbols == ("a", "b", "c", "d")
    assert tokenizer.encode("dab").tolist() == [3, 0, 1]


def test_words_lie_between_spaces_of_any_kind():
    tokenizer = build_tokenizer("words", ["to  be,\tor\nnot"])
    assert tokenizer.symbols == ("be,", "not", "or", "to")
    assert tokenizer.decode(tokenizer.encode(" or \n be, ")) == "or be,"


@pytest.mark.parametrize(
    ("tokenizer", "text", "symbol", "position"),
    [
        (Symbols(("a", "b")), "abcad", "c", 2),
        (Symbols(("cats", "b"), words=True), "cats b\n dogs", "dogs", 8),
        (Symbols(("concatenate", "cats"), words=True), "concatenate cats cat", "cat", 17),
        (Symbols(("a",), words=True), "a (b", "(b", 2),
    ],
)
def test_an_unknown_symbol_is_named_with_its_place(tokenizer, text, symbol, position):
    with pytest.raises(UnknownSymbolError, match=rf"character {position + 1}\) is not") as caught:
        tokenizer.encode(text)
    assert (caught.value.symbol, caught.value.position) == (symbol, position)


def test_the_rarer_symbols_of_a_small_vocabulary_are_unknown():
    texts = ["d d d a a c c b"]
    words = build_tokenizer("words", texts, vocab_size=3)
    assert words.symbols == (UNKNOWN, "a", "d")  # of a and c, as frequent, the first
    assert words.vocab_size == 3
    assert words.decode(words.encode("d b a never")) == f"d {UNKNOWN} a {UNKNOWN}"
    characters = build_tokenizer("characters", ["aaabbc"], vocab_size=2, special=3)
    assert characters.encode("abc").tolist() == [4, 3, 3]
    assert build_tokenizer("words", texts, vocab_size=4).symbols == ("a", "b", "c", "d")


def test_a_text_that_holds_unknown_words_already_makes_no_symbol_twice():
    tokenizer = build_tokenizer("words", [f"{UNKNOWN} {UNKNOWN} a b b"], vocab_size=2)
    assert tokenizer.symbols == (UNKNOWN, "b")


@pytest.mark.parametrize(("size", "expected"), [(256, 256), (290, 290), (None, 1024)])
def test_byte_pairs_have_bytes_and_the_pairs_that_fit(size, expected):
    text = " ".join(f"{i:o}" for i in range(3000))
    assert build_tokenizer("bpe", [text], size).vocab_size == expected


def test_byte_pairs_are_shorter_than_bytes_and_know_any_text(pairs):
    text = SENTENCES[0]
    assert len(pairs.encode(text)) < len(text) / 2
    unseen = "Ω\t\x01 [x]  \n"
    assert pairs.decode(pairs.encode(unseen)) == unseen


def test_byte_pairs_are_read_from_a_file(tmp_path, pairs):
    path = tmp_path / "tokenizer.json"
    path.write_text(with_settings(pairs))
    expected = pairs.encode(SENTENCES[1])
    np.testing.assert_array_equal(read_tokenizer(path).encode(SENTENCES[1]), expected)
    marked = build_tokenizer(str(path), ["not looked at"], special=3)
    np.testing.assert_array_equal(marked.encode(SENTENCES[1]), expected + 3)


def test_lengths_that_a_file_sets_do_not_count(pairs):
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    fill = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    published = BytePairs(with_settings(pairs, truncation=cut, padding=fill))
    np.testing.assert_array_equal(published.encode(SENTENCES[0]), pairs.encode(SENTENCES[0]))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"not json", b"\xff\xfe"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    for read in (read_tokenizer, lambda path: build_tokenizer(str(path), [])):
        with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
            read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json cannot be read: .*No such file"):
        read_tokenizer(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("letters", None, "data.text.tokens is 'letters', expected characters, bytes, words, bpe"),
        ("words", 1, "data.text.vocab_size has to be 2 or more, got 1"),
        ("characters", 0, "data.text.vocab_size has to be 2 or more, got 0"),
        ("bytes", 300, "bytes are always 256, data.text.vocab_size is 300: leave it out"),
        ("none.json", 300, "none.json has a vocabulary of its own, data.text.vocab_size is 300"),
        ("bpe", 255, "byte pairs begin with 256 bytes, data.text.vocab_size is 255"),
    ],
)
def test_other_settings_are_refused(kind, size, message):
    with pytest.raises(InputError, match=message):
        build_tokenizer(kind, SENTENCES, size)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"pip install 'ganjax\[text\]'"):
        build_tokenizer("bpe", SENTENCES)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"kind": "letters"},
        {"kind": "words"},
        {"kind": "characters", "symbols": None},
        {"kind": "bytes", "special": "three"},
        {"kind": "bpe", "content": {}},
    ],
)
def test_what_is_no_stored_vocabulary_is_refused(value):
    with pytest.raises(InputError, match=r"this is no (vocabulary|tokenizer\.json)"):
        from_json(value)
