"""Official GPT-2 weights: which tensor is which, and the folder they come in.

`config` has the fields of Hugging Face's `config.json`: `vocab_size`, `n_positions`, `n_embd`,
`n_layer`, `n_head`, `layer_norm_epsilon`, `activation_function`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ganjax import generation
from ganjax.beams import beam_search
from ganjax.files import of_file, read_json, reading
from ganjax.generation import Sampling
from ganjax.networks.gpt import Transformer
from ganjax.types import Array, InputError, Key, Variables

_DEFAULTS = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
_ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu_new (tanh approximation)")
_BLOCK = {
    "ln_1.weight": ("norm1", "scale"),
    "ln_1.bias": ("norm1", "bias"),
    "attn.c_attn.weight": ("Attention_0", "inputs", "kernel"),
    "attn.c_attn.bias": ("Attention_0", "inputs", "bias"),
    "attn.c_proj.weight": ("Attention_0", "output", "kernel"),
    "attn.c_proj.bias": ("Attention_0", "output", "bias"),
    "ln_2.weight": ("norm2", "scale"),
    "ln_2.bias": ("norm2", "bias"),
    "mlp.c_fc.weight": ("hidden", "kernel"),
    "mlp.c_fc.bias": ("hidden", "bias"),
    "mlp.c_proj.weight": ("output", "kernel"),
    "mlp.c_proj.bias": ("output", "bias"),
}
# Masks that older files carry, and the output table, which is tied to that of the tokens.
_UNUSED = (".attn.bias", ".attn.masked_bias", "lm_head.weight")


@struct.dataclass
class ImportedLanguageModel:
    """A language model with official weights; a pytree whose leaves are the variables.

    Attributes:
      network: Linen module.
      variables: its collections.
      stop_token: with which texts end; None for no such token.
      tokenizer: `encode(text)` and `decode(tokens)`, where the weights came with one.
    """

    network: Transformer = struct.field(pytree_node=False)
    variables: Variables
    stop_token: int | None = struct.field(pytree_node=False, default=None)
    tokenizer: Any = struct.field(pytree_node=False, default=None)

    def logits(self, tokens: Any) -> Array:
        """Return the logits (B, S, vocab_size) of what follows each of tokens (B, S).

        Raises:
          InputError: the shape is another one, or tokens are out of their range.
        """
        if not isinstance(tokens, jax.Array):
            tokens = np.asarray(tokens)
        if tokens.ndim != 2 or not tokens.size:
            raise InputError(
                f"tokens have the shape {tokens.shape}, expected (B, S): a list of sequences, also "
                "of one, and each of one token or more"
            )
        if not isinstance(tokens, jax.core.Tracer):
            generation.check_tokens(np.asarray(tokens), self.network.vocab_size)
        return self.network.apply(self.variables, jnp.asarray(tokens, jnp.int32))

    def generate(
        self,
        tokens: Any,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        key: Key,
        stop_token: int | None = None,
        **more: float,
    ) -> Array:
        """Write on from prompts (B, P), or B prompts of different lengths.

        Args:
          tokens: the prompts.
          max_new_tokens: for each.
          temperature: see `ganjax.generation.Sampling`.
          top_k: likewise.
          top_p: likewise.
          key: random key.
          stop_token: ends a row; by default none does.
          more: `min_p` and `repetition_penalty`, likewise.

        Returns:
          (B, P + max_new_tokens) int32.
        """
        sampling = Sampling(temperature, top_k, top_p, **more)
        return generation.generate(
            self.network,
            self.variables,
            tokens,
            max_new_tokens,
            key=key,
            sampling=sampling,
            stop_token=stop_token,
            pad_token=0 if stop_token is None else stop_token,
            vocab_size=self.network.vocab_size,
        )

    def greedy(self, tokens: Any, max_new_tokens: int) -> Array:
        """Return prompts (B, P) and the likeliest token after each, max_new_tokens times."""
        return self.generate(tokens, max_new_tokens, temperature=0.0, key=jax.random.key(0))

    def beam_search(
        self,
        tokens: Any,
        max_new_tokens: int,
        num_beams: int,
        num_return: int = 1,
        *,
        stop_token: int | None = None,
    ) -> tuple[Array, Array]:
        """Return the likeliest continuations of prompts (B, P) and their scores.

        A score is the sum of log-probabilities of the new tokens, over their number.

        Returns:
          (sequences, scores): (B * num_return, P + max_new_tokens) int32 and (B * num_return,), the
          best of each prompt first.
        """
        sequences, scores = beam_search(
            self.network,
            self.variables,
            tokens,
            max_new_tokens,
            num_beams=num_beams,
            num_return=num_return,
            stop_token=stop_token,
            pad_token=0 if stop_token is None else stop_token,
        )
        return sequences.reshape(-1, sequences.shape[-1]), scores.reshape(-1)


def import_gpt2(
    config: Mapping[str, Any], state_dict: Mapping[str, Any], *, tokenizer: Any = None
) -> ImportedLanguageModel:
    """Return a GPT-2 with official weights.

    Args:
      config: the official settings; what is left out is as in the smallest GPT-2.
      state_dict: official names to arrays, with or without the prefix `transformer.`.
      tokenizer: kept with it.

    Raises:
      InputError: tensors are missing, not known, or of another shape; or the settings ask for what
        GPT-2 is not.
    """
    network = _network(config)
    tensors = {
        name.removeprefix("transformer."): value
        for name, value in state_dict.items()
        if not name.endswith(_UNUSED)
    }
    if network.num_layers > len(tensors):  # before a name is made for each layer
        raise InputError(
            f"the configuration has {network.num_layers} layers, more than there are tensors "
            f"({len(tensors)})"
        )
    table = _names(network.num_layers)
    missing, unknown = sorted(set(table) - set(tensors)), sorted(set(tensors) - set(table))
    if missing or unknown:
        what = f"lack {missing[0]}" if missing else f"hold {unknown[0]}, which a GPT-2 lacks"
        raise InputError(
            f"these weights {what} ({len(missing)} missing, {len(unknown)} unknown): is the "
            f"configuration, with {network.num_layers} layers, theirs?"
        )
    tied = state_dict.get("lm_head.weight")
    if tied is not None and not np.array_equal(tied, tensors["wte.weight"]):
        raise InputError("lm_head.weight is not wte.weight: GPT-2 has one table for both")
    # Before anything is traced that is as large as the settings say.
    for name, length in (("wte.weight", network.vocab_size), ("wpe.weight", network.context)):
        _check_shape(name, tensors[name], (length, network.width))
    example = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    params: dict[str, Any] = {}
    for name, path in table.items():
        array = np.asarray(tensors[name], np.float32)
        wanted, place = example["params"], params
        for part in path:
            wanted = wanted[part]
        _check_shape(name, array, wanted.shape)
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = jnp.asarray(array)
    stop_token = config.get("eos_token_id")
    if stop_token is not None and type(stop_token) is not int:
        raise InputError(f"eos_token_id is {stop_token!r}, expected a number")
    return ImportedLanguageModel(network, {"params": params}, stop_token, tokenizer)


def read_gpt2(folder: str | os.PathLike) -> ImportedLanguageModel:
    """Read a downloaded GPT-2: `config.json`, `model.safetensors` and, if there, `tokenizer.json`.

    Needs `pip install 'ganjax[interop]'`, and `'ganjax[text]'` for the tokenizer.

    Raises:
      InputError: a file is missing or broken, or a package is.
    """
    folder = Path(folder)
    config_path, weights_path = folder / "config.json", folder / "model.safetensors"
    for path in (config_path, weights_path):
        if not path.is_file():
            raise InputError(f"{folder} holds no {path.name}: it is not a downloaded GPT-2")
    config = read_json(config_path)
    if not isinstance(config, dict):
        raise InputError(f"{config_path} is broken: expected a mapping")
    try:
        from safetensors import numpy as package
    except ImportError as error:
        raise InputError(
            "reading safetensors needs a package: pip install 'ganjax[interop]'"
        ) from error
    with reading(str(weights_path)):
        tensors = package.load_file(weights_path)
    tokenizer = None
    if (folder / "tokenizer.json").is_file():
        from ganjax.data.tokenizers import read_tokenizer

        tokenizer = read_tokenizer(folder / "tokenizer.json")
    with of_file(str(folder)):
        return import_gpt2(config, tensors, tokenizer=tokenizer)


def _check_shape(name: str, array: Any, wanted: tuple[int, ...]) -> None:
    if np.shape(array) != wanted:
        raise InputError(f"{name} has shape {np.shape(array)}, expected {wanted}")


def _network(config: Mapping[str, Any]) -> Transformer:
    settings = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in settings.items():
        if type(value) is not int or value < 1:
            raise InputError(f"{name} of a GPT-2 is {value!r}, expected a positive integer")
    activation = config.get("activation_function", config.get("activation", _ACTIVATIONS[0]))
    wanted = {"activation_function": (activation, _ACTIVATIONS)}
    wanted["layer_norm_epsilon"] = (config.get("layer_norm_epsilon", 1e-5), (1e-5,))
    wanted["n_inner"] = (config.get("n_inner"), (None, 4 * settings["n_embd"]))
    wanted["scale_attn_weights"] = (config.get("scale_attn_weights", True), (True,))
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        wanted[name] = (config.get(name, False), (False,))
    for name, (value, known) in wanted.items():
        if value not in known:
            raise InputError(f"{name} is {value!r}, which is not GPT-2's; only {known} is known")
    return Transformer(
        settings["vocab_size"],
        settings["n_positions"],
        settings["n_layer"],
        settings["n_head"],
        settings["n_embd"],
    )


def _names(num_layers: int) -> dict[str, tuple[str, ...]]:
    """Return where each official tensor goes."""
    table = {
        "wte.weight": ("tokens",),
        "wpe.weight": ("positions",),
        "ln_f.weight": ("final_norm", "scale"),
        "ln_f.bias": ("final_norm", "bias"),
    }
    for layer in range(num_layers):
        for name, path in _BLOCK.items():
            table[f"h.{layer}.{name}"] = (f"blocks_{layer}", *path)
    return table
