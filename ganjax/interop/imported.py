"""Networks with official weights: tensors by their official names in, and out again.

Each architecture has a file beside this one with two functions: `networks(config)` returns its
generator and its discriminator, and `names(config, part)` says for every official name which of our
variables it is and how the layouts are exchanged, as an `Entry` of `ganjax.interop.layouts`.
"""

import functools
import importlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ganjax.interop.gpt2 import ImportedLanguageModel, import_gpt2
from ganjax.interop.layouts import Entry
from ganjax.networks.layers import as_network, as_output
from ganjax.types import Array, InputError, Key, Variables

PREFIXES = {"generator": "G.", "discriminator": "D."}
NOISE = ("random", "const", "none")
_SHOWN = 3  # names in an error


class Architecture(NamedTuple):
    """An importer: where its functions are, and what its networks take.

    Attributes:
      module: the name of its file beside this one.
      latent_dim: field of `config`, and its official default.
      num_classes: likewise.
      resolution: likewise, the side of the square images; None where there is no default.
      channels: likewise.
    """

    module: str
    latent_dim: tuple[str, int]
    num_classes: tuple[str, int]
    resolution: tuple[str, int | None]
    channels: tuple[str, int]


ARCHITECTURES = {
    "stylegan2": Architecture(
        "stylegan2",
        ("z_dim", 512),
        ("c_dim", 0),
        ("img_resolution", None),
        ("img_channels", 3),
    ),
    "r3gan": Architecture(
        "r3gan", ("z_dim", 64), ("c_dim", 0), ("image_resolution", None), ("image_channels", 3)
    ),
    "biggan": Architecture(
        "biggan", ("z_dim", 128), ("n_classes", 1000), ("image_resolution", 128), ("channels", 3)
    ),
}


@struct.dataclass
class ImportedGAN:
    """A generator and a discriminator with official weights; images are float32 NHWC in [-1, 1].

    A pytree whose leaves are the variables, so that
    `jax.grad(lambda v: imported.replace(discriminator_variables=v).discriminate(x).sum())` and
    `jax.jit` over an `ImportedGAN` work.

    Attributes:
      generator: Linen module.
      generator_variables: its collections, `{"params": ..., ...}`; None where the weights that were
        imported had no generator.
      discriminator: Linen module.
      discriminator_variables: the same for the discriminator.
      architecture: a key of `ARCHITECTURES`.
      config: what the networks were built from, as JSON.
    """

    generator: Any = struct.field(pytree_node=False)
    generator_variables: Variables | None
    discriminator: Any = struct.field(pytree_node=False)
    discriminator_variables: Variables | None
    architecture: str = struct.field(pytree_node=False)
    config: str = struct.field(pytree_node=False)

    @property
    def has_styles(self) -> bool:
        """Whether the generator maps latents to styles first, as StyleGAN does."""
        return hasattr(self.generator, "map")

    def map(self, latents: Array, labels: Array | None = None, truncation: float = 1.0) -> Array:
        """Map latents to styles.

        Args:
          latents: (B, z_dim).
          labels: one-hot (B, num_classes) or int (B,), or None for an unconditional model.
          truncation: how far styles keep from their tracked mean: 1 is all the way, 0 the mean.

        Returns:
          (B, num_styles, w_dim).

        Raises:
          ValueError: this architecture has no styles.
        """
        self._require_styles("map")
        arguments = {"truncation": float(truncation)}
        return _apply(self, "generator", "map", (latents, labels), arguments)

    def synthesize(self, styles: Array, *, noise: str = "random", key: Key | None = None) -> Array:
        """Make images of styles.

        Args:
          styles: (B, num_styles, w_dim).
          noise: "random" draws new noise, "const" takes the stored one, "none" takes none.
          key: of random noise; by default the same at each call.

        Returns:
          (B, H, W, C) in about [-1, 1].

        Raises:
          ValueError: this architecture has no styles, or `noise` is none of the three.
        """
        self._require_styles("synthesize")
        _check_noise(noise)
        return _apply(self, "generator", "synthesize", (styles,), {"noise": noise}, key=key)

    def generate(
        self,
        latents: Array,
        labels: Array | None = None,
        *,
        truncation: float = 1.0,
        noise: str = "random",
        train: bool = False,
        key: Key | None = None,
    ) -> Array | tuple[Array, "ImportedGAN"]:
        """Make images of latents.

        Args:
          latents: (B, z_dim).
          labels: one-hot (B, num_classes) or int (B,), or None for an unconditional model.
          truncation: of styles, see `map`.
          noise: see `synthesize`.
          train: whether statistics of the batch are used and tracked.
          key: of random noise; by default the same at each call.

        Returns:
          (B, H, W, C); with `train`, these and an `ImportedGAN` with the updated statistics.

        Raises:
          ValueError: `truncation` or `noise` is given to an architecture without styles.
        """
        _check_noise(noise)
        arguments: dict[str, Any] = {"train": train}
        if self.has_styles:
            arguments |= {"truncation": float(truncation), "noise": noise}
        elif truncation != 1.0:
            raise ValueError(
                f"{self.architecture} has no styles to truncate, got {truncation=}; draw latents "
                "from a truncated normal instead (ganjax.latents)"
            )
        elif noise != "random":
            raise ValueError(f"{self.architecture} adds no noise, got {noise=}; leave it out")
        return _apply(self, "generator", None, (latents, labels), arguments, key=key)

    def discriminate(
        self, images: Array, labels: Array | None = None, *, train: bool = False
    ) -> Array | tuple[Array, "ImportedGAN"]:
        """Judge images.

        Args:
          images: (B, H, W, C) float in [-1, 1].
          labels: one-hot (B, num_classes) or int (B,), or None for an unconditional model.
          train: whether statistics such as those of spectral norm are updated.

        Returns:
          Logits (B,); with `train`, these and an `ImportedGAN` with the updated statistics.
        """
        return _apply(self, "discriminator", None, (images, labels), {"train": train})

    def to_state_dict(self, tree: Any) -> dict[str, np.ndarray]:
        """Return arrays by their official names and in their official layouts.

        Args:
          tree: variables, parameters, or gradients of either, of one network (which of the two is
            seen from the names in it); or `{"generator": ..., "discriminator": ...}`; or an
            `ImportedGAN`. Constant buffers are added to whole variables (with `"params"`), not to
            bare parameters.

        Raises:
          ValueError: the tree is that of neither network.
        """
        if isinstance(tree, ImportedGAN):
            tree = {part: getattr(tree, f"{part}_variables") for part in PREFIXES}
        tables = {part: _names(self.architecture, self.config, part) for part in PREFIXES}
        if set(tree) <= set(PREFIXES):
            given = {part: value for part, value in tree.items() if value is not None}
        else:
            given = {_part_of(tree, tables): tree}
        state_dict = {}
        for part, value in given.items():
            whole, leaves = _leaves(value)
            for name, entry in tables[part].items():
                if entry.path is None and whole:
                    state_dict[PREFIXES[part] + name] = entry.to_official()
                elif entry.path in leaves:
                    array = np.asarray(leaves[entry.path])
                    state_dict[PREFIXES[part] + name] = entry.to_official(array)
        return state_dict

    def _require_styles(self, method: str) -> None:
        if not self.has_styles:
            raise ValueError(f"{self.architecture} has no styles, so there is nothing to {method}")


def import_state_dict(
    architecture: str, config: Mapping[str, Any], state_dict: Mapping[str, Any]
) -> ImportedGAN | ImportedLanguageModel:
    """Build the networks of an official model and fill in its weights.

    Args:
      architecture: "stylegan2", "r3gan" or "biggan"; or "gpt2", see `ganjax.interop.import_gpt2`.
      config: the official settings; what is absent has the official default.
      state_dict: arrays by official names, with the prefix `G.` or `D.`. All of one network may be
        missing.

    Raises:
      InputError: a name is missing or unknown, or an array does not have the shape that `config`
        implies.
    """
    if architecture == "gpt2":
        return import_gpt2(config, state_dict)
    _check_architecture(architecture, (*ARCHITECTURES, "gpt2"))
    modules = dict(zip(PREFIXES, networks(architecture, config), strict=True))
    text = json.dumps(_plain(config), sort_keys=True)
    unknown = [name for name in state_dict if name[:2] not in PREFIXES.values()]
    if unknown or not state_dict:
        raise InputError(
            f"expected names that begin with G. or D., got {_some(unknown) or 'no array at all'}"
        )
    variables = {}
    for part, prefix in PREFIXES.items():
        given = {n[len(prefix) :]: a for n, a in state_dict.items() if n.startswith(prefix)}
        variables[part] = None
        if given:
            shapes = _shapes(architecture, text, part, modules[part])
            variables[part] = _filled(architecture, text, part, given, shapes)
    return ImportedGAN(
        generator=modules["generator"],
        generator_variables=variables["generator"],
        discriminator=modules["discriminator"],
        discriminator_variables=variables["discriminator"],
        architecture=architecture,
        config=text,
    )


def networks(architecture: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the generator and the discriminator, Linen modules, of an official configuration.

    Raises:
      InputError: the architecture is unknown, or the configuration contradicts itself.
    """
    _check_architecture(architecture)
    text = json.dumps(_plain(config), sort_keys=True)
    return _importer(architecture).networks(_thawed(text))


def import_generator(
    architecture: str, config: Mapping[str, Any], variables: Variables
) -> ImportedGAN:
    """Return a generator with its own variables, such as those that an export has kept.

    Raises:
      InputError: the variables are not those of this architecture and configuration.
    """
    generator, discriminator = networks(architecture, config)
    text = json.dumps(_plain(config), sort_keys=True)
    expected = _leaves(_shapes(architecture, text, "generator", generator))[1]
    given = _leaves(variables)[1]
    wrong = [
        path
        for path in {*expected, *given}
        if path not in expected or path not in given or expected[path].shape != given[path].shape
    ]
    if wrong:
        raise InputError(
            f"these are not the variables of a {architecture} generator with this configuration: "
            f"{_some('.'.join(path) for path in wrong)}"
        )
    return ImportedGAN(
        generator=generator,
        generator_variables=variables,
        discriminator=discriminator,
        discriminator_variables=None,
        architecture=architecture,
        config=text,
    )


def input_shapes(architecture: str, config: Mapping[str, Any]) -> tuple[int, int, tuple[int, ...]]:
    """Return the length of a latent, the number of classes and the shape (H, W, C) of an image."""
    fields = ARCHITECTURES[architecture]
    side = config.get(*fields.resolution)
    if side is None:
        raise InputError(f"the configuration of a {architecture} needs {fields.resolution[0]}")
    shape = (side, side, config.get(*fields.channels))
    return config.get(*fields.latent_dim), config.get(*fields.num_classes), shape


def _check_architecture(architecture: str, known: Iterable[str] = ARCHITECTURES) -> None:
    if architecture not in known:
        raise InputError(
            f"the architecture has to be one of {', '.join(known)}; got {architecture!r}"
        )


def _importer(architecture: str) -> Any:
    # Imported where it is needed: one architecture does not cost the networks of the others.
    return importlib.import_module(f"ganjax.interop.{ARCHITECTURES[architecture].module}")


@functools.lru_cache(maxsize=32)
def _names(architecture: str, config: str, part: str) -> dict[str, Entry]:
    return _importer(architecture).names(_thawed(config), part)


def _shapes(architecture: str, config: str, part: str, module: Any) -> Variables:
    """Return the shapes of the variables that a network has."""
    latent_dim, num_classes, shape = input_shapes(architecture, _thawed(config))
    inputs = (latent_dim,) if part == "generator" else shape
    labels = jax.ShapeDtypeStruct((2, num_classes), jnp.float32) if num_classes else None
    return jax.eval_shape(
        as_network(module).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, *inputs), jnp.float32),
        labels,
    )


def _filled(
    architecture: str, config: str, part: str, given: Mapping[str, Any], shapes: Variables
) -> Variables:
    """Return the variables of one network from official arrays."""
    table, prefix = _names(architecture, config, part), PREFIXES[part]
    missing = [prefix + name for name in table if name not in given]
    extra = [prefix + name for name in given if name not in table]
    if missing or extra:
        complaint = "; ".join(
            f"{len(names)} {what}: {_some(names)}"
            for what, names in (("missing", missing), ("unknown", extra))
            if names
        )
        raise InputError(
            f"these are not the weights of a {architecture} {part} with this configuration "
            f"({complaint})"
        )
    _, expected = _leaves(shapes)
    if unnamed := set(expected) - {entry.path for entry in table.values()}:
        raise ValueError(f"{architecture} has no official name for {_some(map(str, unnamed))}")
    variables: dict[str, Any] = {}
    for name, entry in table.items():
        array = np.asarray(given[name])
        if entry.path is None:
            _check_constant(prefix + name, array, entry.to_official())
            continue
        if entry.path not in expected:
            raise ValueError(f"{prefix}{name} names {entry.path}, which the network does not have")
        *parents, leaf = entry.path
        node = functools.reduce(lambda tree, k: tree.setdefault(k, {}), parents, variables)
        node[leaf] = _converted(prefix + name, array, entry, expected[entry.path])
    return variables


def _converted(name: str, array: np.ndarray, entry: Entry, expected: Any) -> Array:
    official = entry.to_official(np.broadcast_to(np.float32(0), expected.shape)).shape
    if array.shape != official:
        raise InputError(f"{name} has shape {array.shape}, but this configuration needs {official}")
    # Copied: a view would keep a whole checkpoint file alive, and may be written to by its owner.
    return jnp.array(entry.to_ours(array), expected.dtype)


def _check_constant(name: str, array: np.ndarray, expected: np.ndarray) -> None:
    if array.shape != expected.shape or not np.allclose(array, expected, rtol=1e-4, atol=1e-6):
        raise InputError(
            f"{name} is not the constant that this architecture has by default; a model with "
            "another one cannot be imported"
        )


def _leaves(tree: Any) -> tuple[bool, dict[tuple[str, ...], Any]]:
    """Return whether a tree has whole collections, and its leaves by path into the variables."""
    whole = "params" in tree
    leaves = jax.tree_util.tree_leaves_with_path(tree if whole else {"params": tree})
    return whole, {tuple(str(key.key) for key in path): leaf for path, leaf in leaves}


def _part_of(tree: Any, tables: Mapping[str, Mapping[str, Entry]]) -> str:
    """Return which network a tree belongs to."""
    _, leaves = _leaves(tree)
    paths = {part: {entry.path for entry in table.values()} for part, table in tables.items()}
    fitting = [part for part in paths if leaves and set(leaves) <= paths[part]]
    if len(fitting) > 1:  # part of a tree: whichever is complete
        params = {part: {p for p in paths[part] if p and p[0] == "params"} for part in fitting}
        fitting = [part for part in fitting if params[part] <= set(leaves)]
    if len(fitting) != 1:
        raise ValueError(
            "expected variables, parameters or gradients of the generator or of the discriminator, "
            f"got a tree with {_some('/'.join(path) for path in leaves) or 'no leaf'}; name the "
            'network as in {"generator": tree}'
        )
    return fitting[0]


def _apply(
    gan: ImportedGAN,
    part: str,
    method: str | None,
    inputs: tuple,
    arguments: Mapping[str, Any],
    *,
    key: Key | None = None,
) -> Any:
    """Run a network; with `train` also return `gan` with the collections that it updated."""
    variables = getattr(gan, f"{part}_variables")
    if variables is None:
        raise ValueError(
            f"no weights of a {part} were imported; import names that begin with {PREFIXES[part]}"
        )
    module = getattr(gan, part)
    key = jax.random.key(0) if key is None else key
    inputs = tuple(None if x is None else _as_input(x) for x in inputs)
    static = tuple(sorted(arguments.items()))
    result, updated = _run(module, method, static, variables, inputs, key)
    if not arguments.get("train"):
        return result
    return result, gan.replace(**{f"{part}_variables": {**variables, **updated}})


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(module, method, static, variables, inputs, key):
    arguments = dict(static)
    others = [name for name in variables if name != "params"] if arguments.get("train") else []
    noise_key, dropout_key = jax.random.split(key)
    result, updated = module.apply(
        variables,
        *inputs,
        **arguments,
        method=method,
        rngs={"noise": noise_key, "dropout": dropout_key},
        mutable=others,
    )
    if hasattr(result, "logits"):
        return as_output(result).logits, updated
    return result.astype(jnp.float32), updated


def _as_input(array: Any) -> Array:
    array = jnp.asarray(array)
    return array if jnp.issubdtype(array.dtype, jnp.integer) else array.astype(jnp.float32)


def _check_noise(noise: str) -> None:
    if noise not in NOISE:
        raise ValueError(f"noise has to be one of {', '.join(NOISE)}; got {noise!r}")


def _plain(value: Any) -> Any:
    """Return a configuration as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"a configuration has numbers, strings and lists, got {value!r}")


def _thawed(config: str) -> dict[str, Any]:
    """Return a configuration with tuples for lists, as the settings of modules have to be."""

    def frozen(value):
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return {key: frozen(value) for key, value in json.loads(config).items()}


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
