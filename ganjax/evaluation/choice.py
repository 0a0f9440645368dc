"""`choose_extractor`: from a name, a file or a function of the user's to an `Extractor`."""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from ganjax.evaluation import weights
from ganjax.evaluation.classifier import cifar10_classifier, fashion_mnist_classifier
from ganjax.evaluation.extractor import Extractor, compiled_extractor, pixels
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
        traceable function from uint8 images (B, H, W, C) to features (B, D), or to a dict with
        `features` and `logits`.
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
    content = path.read_bytes() + function.encode()
    extractor = compiled_extractor(
        f"{function} of {path.name}",
        hashlib.sha256(content).hexdigest(),
        network,
        image_shape=image_shape,
    )
    import jax
    import jax.numpy as jnp

    form = jax.eval_shape(extractor.network, jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8))
    if "features" not in form or form["features"].ndim != 2:
        raise InputError(
            f"{function} of {path} has to return features (B, D), or a dict with them under "
            "'features'."
        )
    if "logits" not in form:
        return extractor
    metrics = ("frechet_distance", "classifier_score")
    return dataclasses.replace(extractor, logits="logits", metrics=metrics)
