"""A trained generator as files that others read: safetensors, and a StableHLO program.

safetensors holds the arrays, which other frameworks read as they are, with a `config.json` beside
it that says what they belong to. A StableHLO program holds the arrays and the computation: it runs
wherever XLA does, with `jax` and none of this library.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ganjax.files import read_json, reading
from ganjax.interop.imported import ImportedGAN, import_generator, input_shapes
from ganjax.types import Array, InputError, Variables

WEIGHTS, CONFIG = "generator.safetensors", "config.json"
PLATFORMS = ("cpu", "cuda", "tpu")
# Flatbuffers, in which a program is stored, end there.
_LARGEST_PROGRAM = 2 << 30


def save_weights(
    directory: str | os.PathLike, variables: Variables, config: Mapping[str, Any]
) -> None:
    """Write variables as safetensors, and beside them what they belong to.

    Args:
      directory: made if it does not exist; the files `generator.safetensors` and `config.json` in
        it are replaced.
      variables: collections of arrays, `{"params": ...}`; a tensor's name is the path to it, such
        as `params.conv1.kernel`.
      config: JSON-able: what it takes to build the network again.

    Raises:
      InputError: the package safetensors is not installed, or the disk cannot be written.
    """
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = ".".join(str(key.key) for key in path)
        tensors[name] = np.asarray(leaf, order="C")
    text = json.dumps(config, indent=2) + "\n"
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _safetensors().save_file(tensors, directory / WEIGHTS, {"format": "ganjax"})
        (directory / CONFIG).write_text(text)
    except OSError as error:
        raise InputError(f"writing to {directory} failed: {error.strerror or error}") from error


def load_weights(directory: str | os.PathLike) -> tuple[dict[str, Any], Variables]:
    """Read what `save_weights` wrote.

    Returns:
      (config, variables).

    Raises:
      InputError: a file is missing or broken, or the package safetensors is not installed.
    """
    package, directory = _safetensors(), Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise InputError(f"{directory} holds no exported generator: {name} is missing")
    config = read_json(directory / CONFIG)
    try:
        tensors = package.load_file(directory / WEIGHTS)
    except Exception as error:  # the package's own, of which it has no list
        raise InputError(f"{directory} holds no sound generator: {error}") from error
    variables: dict[str, Any] = {}
    with reading(str(directory / WEIGHTS)):
        for name, array in tensors.items():
            *parents, leaf = name.split(".")
            node = variables
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = jnp.asarray(array)
    return config, variables


def save_imported(directory: str | os.PathLike, imported: ImportedGAN) -> None:
    """Write the generator of official weights with `save_weights`."""
    config = {"architecture": imported.architecture, "config": json.loads(imported.config)}
    save_weights(directory, imported.generator_variables, config)


def load_imported(directory: str | os.PathLike) -> ImportedGAN:
    """Read what `save_imported` wrote; there is no discriminator in it.

    Raises:
      InputError: the files are missing or broken, or belong to something else.
    """
    config, variables = load_weights(directory)
    if not isinstance(config, dict) or not {"architecture", "config"} <= set(config):
        raise InputError(f"{os.fspath(directory)} holds a generator, but no official one")
    return import_generator(config["architecture"], config["config"], variables)


def save_program(
    path: str | os.PathLike,
    generate: Callable[..., Array],
    *,
    latent_dim: int,
    num_classes: int = 0,
    batch_size: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> None:
    """Write a function from latents to images, with all arrays in it, as a StableHLO program.

    Args:
      path: of the file.
      generate: `(latents (B, latent_dim), labels int32 (B,) or None) -> images`, such as
        `lambda z, labels: imported.generate(z, labels, noise="const")`.
      latent_dim: length of a latent.
      num_classes: 0 for a program that takes no labels.
      batch_size: of every call; by default any.
      platforms: what it can run on.

    Raises:
      InputError: the disk cannot be written.
      ValueError: the program is larger than its format allows, or cannot be made for any batch
        size; the message says what to do.
    """
    batch = batch_size or export.symbolic_shape("batch")[0]
    arguments = [jax.ShapeDtypeStruct((batch, latent_dim), jnp.float32)]
    if num_classes:
        arguments.append(jax.ShapeDtypeStruct((batch,), jnp.int32))

    def program(latents, labels=None):
        return generate(latents, labels)

    try:
        exported = export.export(jax.jit(program), platforms=tuple(platforms))(*arguments)
    except jax.errors.InconclusiveDimensionOperation as error:
        raise ValueError(
            "this generator cannot be exported for any batch size, because it looks at it; pass "
            f"batch_size ({str(error).splitlines()[0]})"
        ) from error
    size = len(exported.mlir_module_serialized)
    if size >= _LARGEST_PROGRAM:
        raise ValueError(
            f"the program has {size / 2**30:.1f} GiB, its format holds {_LARGEST_PROGRAM >> 30}; "
            "write the weights with save_weights instead"
        )
    try:
        Path(path).write_bytes(_with_flatbuffers(exported.serialize))
    except OSError as error:
        raise InputError(f"writing {path} failed: {error.strerror or error}") from error


def load_program(path: str | os.PathLike) -> Callable[..., Array]:
    """Read what `save_program` wrote.

    Returns:
      `(latents, labels=None) -> images`.

    Raises:
      InputError: there is no such file, or it holds no program.
    """
    try:
        data = bytearray(Path(path).read_bytes())
        exported = _with_flatbuffers(export.deserialize, data)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a parser of arbitrary bytes may raise
        raise InputError(f"{path} holds no exported program ({type(error).__name__})") from error

    def generate(latents, labels=None):
        arguments = [jnp.asarray(latents, jnp.float32)]
        if labels is not None:
            arguments.append(jnp.asarray(labels, jnp.int32))
        if len(arguments) != len(exported.in_avals):
            wanted = "latents and labels" if len(exported.in_avals) == 2 else "latents alone"
            raise ValueError(f"this program takes {wanted}")
        return exported.call(*arguments)

    return generate


def save_imported_program(
    path: str | os.PathLike, imported: ImportedGAN, *, noise: str | None = None, **settings: Any
) -> None:
    """Write the generator of official weights with `save_program`.

    Args:
      path: of the file.
      imported: official weights.
      noise: of a generator with styles: "const" (the default) or "none"; a program has no random
        numbers.
      settings: `batch_size` and `platforms` of `save_program`.
    """
    latent_dim, num_classes, _ = input_shapes(imported.architecture, json.loads(imported.config))
    options = {"noise": noise or "const"} if imported.has_styles else {}
    save_program(
        path,
        lambda latents, labels: imported.generate(latents, labels, **options),
        latent_dim=latent_dim,
        num_classes=num_classes,
        **settings,
    )


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise _missing("safetensors") from error
    return safetensors.numpy


def _with_flatbuffers(function: Callable, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ImportError as error:
        raise _missing("flatbuffers") from error


def _missing(package: str) -> InputError:
    return InputError(f"exports need the package {package}: pip install 'ganjax[interop]'")
