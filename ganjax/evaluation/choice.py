"""`choose_extractor`: from a name, a file or a function of the user's to an `Extractor`."""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ganjax.evaluation import weights
from ganjax.evaluation.classifier import cifar10_classifier, fashion_mnist_classifier
from ganjax.evaluation.extractor import Extractor, as_levels, compiled_extractor, pixels
from ganjax.evaluation.stacked import stacked_classifier
from ganjax.types import InputError

_CLASSIFIERS: dict[str, tuple[tuple[int, int, int], Callable[[], Extractor]]] = {
    "fashion-mnist": ((28, 28, 1), fashion_mnist_classifier),
    "cifar10": ((32, 32, 3), cifar10_classifier),
    "stacked-fashion-mnist": ((28, 28, 3), stacked_classifier),
}
# What others draw at this size is not stacked garments.
_NOT_BY_SHAPE = ("stacked-fashion-mnist",)
NAMES = ("auto", *_CLASSIFIERS, "pixels", weights.INCEPTION.name)


def choose_extractor(name: str, image_shape: Sequence[int]) -> Extractor:
    """Return the extractor of a name, for images of a shape.

    Args:
      name: `auto` (the shipped classifier that knows this shape, else `pixels`), `fashion-mnist`,
        `cifar10`, `stacked-fashion-mnist`, `pixels`, `inception-v3` (see `ganjax weights`), the
        path of a `.pth` file with weights of the Inception network, or `FILE.py:FUNCTION` with a
        function from uint8 images (B, H, W, C) to features (B, D), or to a dict with `features`
        and `logits`; what JAX cannot trace is called with NumPy arrays.
      image_shape: (H, W, C).

    Raises:
      InputError: there is no such extractor, or it does not take such images.
    """
    shape = tuple(image_shape)
    if name == "auto":
        for candidate, (known, make) in _CLASSIFIERS.items():
            if known == shape and candidate not in _NOT_BY_SHAPE:
                return make()
        return pixels(shape)
    if name == "pixels":
        return pixels(shape)
    if name == weights.INCEPTION.name:
        return weights.installed_inception()
    if name in _CLASSIFIERS:
        known, make = _CLASSIFIERS[name]
        if shape != known:
            raise InputError(
                f"the extractor {name} judges images of the shape {known}, these have {shape}: "
                f"choose {weights.INCEPTION.name} or pixels."
            )
        return make()
    if name.endswith((".pth", ".pt")):
        return weights.inception_from_file(name)
    path, separator, function = name.rpartition(".py:")
    if separator:
        return _from_python(Path(path + ".py"), function, shape)
    raise InputError(
        f"there is no extractor {name!r}: choose from {', '.join(NAMES)}, a .pth file of the "
        "Inception network, or FILE.py:FUNCTION."
    )


def _from_python(path: Path, function: str, image_shape: tuple[int, ...]) -> Extractor:
    if not path.is_file():
        raise InputError(f"there is no file {path}.")
    spec = importlib.util.spec_from_file_location("_ganjax_extractor", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    network = getattr(module, function, None)
    if not callable(network):
        raise InputError(f"{path} has no function {function}.")
    name, spec = f"{function} of {path.name}", jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8)
    try:
        program = jax.make_jaxpr(network)(spec)
    except jax.errors.JAXTypeError:  # it leaves JAX, for NumPy or another library
        return _on_the_host(name, path, network)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InputError(
            f"{name} cannot be run on images {(2, *image_shape)}: {type(error).__name__}: {reason}"
        ) from error
    # Of the program and all that it holds: weights are read from elsewhere than the file.
    digest = hashlib.sha256(str(program.jaxpr).encode())
    for constant in program.consts:
        digest.update(np.ascontiguousarray(constant).tobytes())
    extractor = compiled_extractor(name, digest.hexdigest(), network, image_shape=image_shape)
    form = jax.eval_shape(extractor.network, spec)
    _check_form(name, form)
    return _with_logits(extractor, form)


def _on_the_host(name: str, path: Path, function: Callable) -> Extractor:
    """Return the extractor of a function that JAX cannot trace, called with NumPy arrays."""

    def apply(images: Any) -> dict[str, np.ndarray]:
        outputs = function(as_levels(images, name))
        outputs = outputs if isinstance(outputs, dict) else {"features": outputs}
        outputs = {key: np.asarray(value, np.float32) for key, value in outputs.items()}
        _check_form(name, outputs)
        return outputs

    def network(images: Any) -> Any:
        raise InputError(f"{name} is not a JAX function: only figures of finished images use it.")

    return Extractor(
        name=name,
        hash=hashlib.sha256(path.read_bytes() + name.encode()).hexdigest(),
        apply=apply,
        stream=lambda parts: map(apply, parts),
        network=network,
        traceable=False,
    )


def _check_form(name: str, outputs: Any) -> None:
    if "features" not in outputs or getattr(outputs["features"], "ndim", 0) != 2:
        raise InputError(
            f"{name} has to return features (B, D), or a dict with them under 'features'."
        )


def _with_logits(extractor: Extractor, outputs: Any) -> Extractor:
    if "logits" not in outputs:
        return extractor
    metrics = ("frechet_distance", "classifier_score")
    return dataclasses.replace(extractor, logits="logits", metrics=metrics)
