"""GPT-2 against Hugging Face's implementation, and the folder it is downloaded as."""

import json
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from reference_vectors import arrays, weights

from ganjax import interop
from ganjax.data import build_tokenizer
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

PREFIX = "transformer."
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def imported():
    return interop.import_state_dict("gpt2", *weights("gpt2_tiny"))


@pytest.fixture
def config():
    return weights("gpt2_tiny")[0]


@pytest.fixture
def tensors():
    return weights("gpt2_tiny")[1]


@pytest.fixture
def folder(tmp_path, config, tensors):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    config = {**config, "model_type": "gpt2", "n_ctx": 64, "n_inner": None, "eos_token_id": 96}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def equal(model, other):
    jax.tree.map(np.testing.assert_array_equal, model.variables, other.variables)
    assert model.network == other.network
    return True


@pytest.fixture(scope="module")
def official():
    return arrays("gpt2_tiny")


def test_logits(imported, official):
    np.testing.assert_allclose(
        imported.logits(official["input_ids"]), official["logits"], atol=1e-5
    )


def test_greedy(imported, official):
    np.testing.assert_array_equal(imported.greedy(official["input_ids"], 20), official["greedy_20"])


def test_beam_search(imported, official):
    sequences, scores = imported.beam_search(official["input_ids"], 12, num_beams=5, num_return=3)
    np.testing.assert_array_equal(sequences, official["beam5_return3_12"])
    np.testing.assert_allclose(scores, official["beam5_return3_12_scores"], atol=1e-5)


@pytest.mark.slow
def test_prompts_of_several_lengths(imported, official):
    tokens = official["input_ids"]
    written = np.asarray(imported.generate([tokens[0, :3], tokens[0]], 4, key=KEY, top_k=1))
    assert written.shape == (2, 16)
    np.testing.assert_array_equal(written[1], official["greedy_20"][0, :16])
    likeliest = np.argmax(imported.logits(written[:1, :6]), axis=-1)
    np.testing.assert_array_equal(written[0, 3:7], likeliest[0, 2:])


def test_a_stop_token_ends_a_row_and_fills_it(imported, official):
    expected = official["greedy_20"].copy()
    stop = int(expected[2, 20])
    for row in expected[:, 12:]:
        row[np.cumsum(row == stop) > 0] = stop
    assert (expected[:, -1] != stop).any()
    written = imported.generate(
        official["input_ids"], 20, key=KEY, temperature=0.0, stop_token=stop
    )
    np.testing.assert_array_equal(written, expected)


def test_a_model_is_a_tree_that_programs_take(imported, official, quick_jit):
    tokens = official["input_ids"][:1]
    found = quick_jit(lambda model, tokens: model.logits(tokens))(imported, tokens)
    np.testing.assert_allclose(found, official["logits"][:1], atol=1e-5)
    assert len(jax.tree.leaves(imported)) == len(weights("gpt2_tiny")[1])


def test_names_without_the_prefix(imported, config, tensors):
    bare = {name.removeprefix(PREFIX): array for name, array in tensors.items()}
    assert not any(name.startswith(PREFIX) for name in bare)
    assert equal(interop.import_gpt2(config, bare), imported)


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_masks_and_the_tied_table_are_nothing_of_their_own(imported, config, tensors, prefix):
    more = {prefix + name.removeprefix(PREFIX): array for name, array in tensors.items()}
    for layer in range(2):
        mask = np.tril(np.ones((1, 1, 64, 64), bool))
        more[f"{prefix}h.{layer}.attn.bias"] = mask
        more[f"{prefix}h.{layer}.attn.masked_bias"] = np.float32(-1e4)
    more["lm_head.weight"] = more[f"{prefix}wte.weight"].copy()
    assert equal(interop.import_gpt2(config, more), imported)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_other_precisions_become_float32(folder, config, tensors, dtype):
    from safetensors.numpy import save_file

    rounded = {name: array.astype(dtype) for name, array in tensors.items()}
    save_file(rounded, folder / "model.safetensors")
    expected = {name: array.astype(np.float32) for name, array in rounded.items()}
    model = interop.read_gpt2(folder)
    assert equal(model, interop.import_gpt2(config, expected))
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {np.dtype(np.float32)}


def test_a_downloaded_folder(imported, official, folder):
    for path in (folder, str(folder)):
        model = interop.read_gpt2(path)
        assert equal(model, imported)
        assert model.stop_token == 96
        assert model.tokenizer is None
    np.testing.assert_allclose(model.logits(official["input_ids"]), official["logits"], atol=1e-5)


def test_the_tokenizer_of_a_folder_is_read_with_it(folder):
    tokenizer = build_tokenizer("bpe", ["to be"], 256)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()["content"]))
    model = interop.read_gpt2(folder)
    prompt = model.tokenizer.encode("to,be")
    np.testing.assert_array_equal(prompt, tokenizer.encode("to,be"))
    written = model.greedy(prompt[None], 3)
    assert model.tokenizer.decode(written[0, :5]) == "to,be"
    # A static part of the tree: programs take the model with it.
    assert jax.tree.map(lambda leaf: leaf, model).tokenizer is model.tokenizer


def test_what_a_configuration_leaves_out_is_as_in_the_smallest_gpt2(tensors):
    config = {"vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 2}
    with pytest.raises(InputError, match="a width of 32 does not divide into 12 heads"):
        interop.import_gpt2(config, tensors)
    assert interop.import_gpt2({**config, "n_head": 2}, tensors).network.heads == 2
    with pytest.raises(InputError, match=r"lack h\.10\.attn.* \(120 missing, 0 unknown\).* 12 lay"):
        interop.import_gpt2({}, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"h.1.mlp.c_fc.bias": None}, r"lack h\.1\.mlp\.c_fc\.bias \(1 missing, 0 unknown\)"),
        ({"wte.weight": None}, r"lack wte\.weight"),
        ({"h.1.attn.c_attn.bias": None}, r"lack h\.1\.attn\.c_attn\.bias"),
        ({"h.2.ln_1.bias": np.zeros(32)}, r"hold h\.2\.ln_1\.bias, which .*0 missing, 1 unknown"),
        ({"score.weight": np.zeros((2, 32))}, r"hold score\.weight"),
        (
            {"wpe.weight": np.zeros((63, 32))},
            r"wpe\.weight has shape \(63, 32\), expected \(64, 32",
        ),
        ({"ln_f.bias": np.zeros(1)}, r"ln_f\.bias has shape \(1,\), expected \(32,\)"),
        (
            {"h.0.mlp.c_fc.weight": np.zeros((128, 32))},  # as a torch Linear has it
            r"h\.0\.mlp\.c_fc\.weight has shape \(128, 32\), expected \(32, 128\)",
        ),
    ],
)
def test_other_tensors_are_refused(config, tensors, changes, message):
    for name, array in changes.items():
        tensors.pop(PREFIX + name, None)
        if array is not None:
            tensors[PREFIX + name] = array
    # The table of the output does not stand in for one that is missing.
    for more in ({}, {"lm_head.weight": weights("gpt2_tiny")[1]["transformer.wte.weight"]}):
        with pytest.raises(InputError, match=message):
            interop.import_gpt2(config, {**tensors, **more})


def test_an_output_table_of_its_own_is_refused(config, tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1
    with pytest.raises(InputError, match=r"lm_head\.weight is not wte\.weight"):
        interop.import_gpt2(config, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu', which is not GPT-2's"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"activation": "silu"}, "activation_function is 'silu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"n_inner": 64}, r"n_inner is 64, which is not GPT-2's; only \(None, 128\)"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"n_layer": 0}, "n_layer of a GPT-2 is 0, expected a positive integer"),
        ({"n_embd": "32"}, "n_embd of a GPT-2 is '32'"),
        ({"vocab_size": None}, "vocab_size of a GPT-2 is None"),
        ({"n_head": 5}, "a width of 32 does not divide into 5 heads"),
        ({"n_layer": 1}, r"hold h\.1\..* \(0 missing, 12 unknown\): is .* with 1 layers, theirs"),
        ({"n_layer": 3}, r"lack h\.2\..* \(12 missing, 0 unknown\)"),
        ({"vocab_size": 96}, r"wte\.weight has shape \(97, 32\), expected \(96, 32\)"),
    ],
)
def test_what_gpt2_is_not_is_refused(config, tensors, changes, message):
    with pytest.raises(InputError, match=message):
        interop.import_gpt2({**config, **changes}, tensors)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_all_names_of_the_activation(imported, config, tensors, activation):
    config = {**config, "activation_function": activation, "n_inner": 128}
    assert equal(interop.import_gpt2(config, tensors), imported)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"holds no {name}: it is not a downloaded GPT-2"):
        interop.read_gpt2(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"7", b"\xff\xfe{}"])
def test_a_broken_configuration_is_named(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json is broken"):
        interop.read_gpt2(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not tensors",
        lambda content: content[:-1],
        lambda content: content[:100],
        lambda content: content + b"more",
        lambda content: b"\xff" * 8 + content[8:],
    ],
)
def test_broken_weights_are_named(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        interop.read_gpt2(folder)


def test_a_broken_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        interop.read_gpt2(folder)


def test_a_missing_package_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"pip install 'ganjax\[interop\]'"):
        interop.read_gpt2(folder)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, tokens: model.logits(tokens),
        lambda model, tokens: model.greedy(tokens, 2),
        lambda model, tokens: model.generate(tokens, 2, key=KEY),
        lambda model, tokens: model.beam_search(tokens, 2, num_beams=2),
    ],
)
@pytest.mark.parametrize(("token", "between"), [(97, "1 and 97"), (-1, "-1 and 2")])
def test_tokens_out_of_range_are_refused(imported, call, token, between):
    with pytest.raises(InputError, match=f"tokens lie between {between}, expected 0 to 96"):
        call(imported, [[1, token, 2]])


@pytest.mark.parametrize(
    ("tokens", "shape"), [([1, 2, 3], r"\(3,\)"), ([[]], r"\(1, 0\)"), ([], r"\(0,\)")]
)
def test_logits_are_of_a_batch(imported, tokens, shape):
    with pytest.raises(InputError, match=rf"tokens have the shape {shape}, expected \(B, S\)"):
        imported.logits(tokens)


def test_an_unknown_architecture_is_told_of_all():
    with pytest.raises(InputError, match="one of stylegan2, r3gan, biggan, gpt2; got 'gpt3'"):
        interop.import_state_dict("gpt3", {}, {})
