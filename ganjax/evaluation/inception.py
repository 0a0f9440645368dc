"""`inception_v3`: the features that FID, KID and inception score are defined on."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ganjax.evaluation.extractor import Extractor, compiled_extractor, weights_sha256
from ganjax.networks.inception import FEATURES, InceptionV3
from ganjax.types import Array, InputError

NAME = "inception-v3-tf1"
PUBLISHED = {
    "frechet_distance": "FID",
    "kernel_distance": "KID",
    "classifier_score": "IS",
    "frechet_distance_at_infinity": "FID∞",
    "intra_class_frechet_distance": "intra-FID",
}
_EPSILON = 1e-3  # of the batch norms


def inception_v3(state_dict: Mapping[str, np.ndarray], *, batch_size: int = 50) -> Extractor:
    """Return the FID's Inception network with these weights.

    Args:
      state_dict: the tensors of the PyTorch port by their official names
        (`Mixed_5b.branch1x1.conv.weight`, `....bn.running_mean`, `fc.weight`, ...), float32. Names
        that the network does not use are ignored.
      batch_size: images per call.

    Returns:
      An extractor for images (N, H, W, 3), of any size; grey ones (N, H, W, 1) are repeated three
      times. Its outputs are the features `64`, `192`, `768` and `2048` and `logits_unbiased`.

    Raises:
      InputError: a tensor is missing or has another shape.

    References:
      Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017 (arXiv 1706.08500).
    """
    params, used = _params(state_dict)

    # On a CPU one image's activations stay in its cache, and those of a batch do not.
    one_by_one = jax.default_backend() == "cpu" and len(jax.local_devices()) == 1

    def apply(variables: Any, images: Array) -> dict[str, Array]:
        return InceptionV3().apply({"params": variables}, images)

    def network(variables: Any, images: Array) -> dict[str, Array]:
        if images.shape[-1] not in (1, 3):
            raise InputError(
                f"{NAME} takes grey or colour images, these have {images.shape[-1]} channels."
            )
        if images.dtype != jnp.uint8:
            images = images * 127.5 + 127.5
        if images.shape[-1] == 1:
            images = jnp.repeat(images, 3, axis=-1)
        if one_by_one:
            outputs = jax.lax.map(lambda image: apply(variables, image[None]), images)
            return {name: x[:, 0] for name, x in outputs.items()}
        return apply(variables, images)

    return compiled_extractor(
        NAME,
        weights_sha256(used),
        network,
        image_shape=(None, None, None),
        batch_size=batch_size,
        variables=params,
        features=FEATURES[-1],
        logits="logits_unbiased",
        resize="bilinear to 299x299 as TensorFlow 1",
        metrics=("frechet_distance", "classifier_score"),
        published=PUBLISHED,
    )


def _params(
    state_dict: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the parameters of `InceptionV3`, and the tensors that they were made of.

    The batch norms are folded into the convolutions.
    """
    used = {}

    def tensor(name: str, ndim: int) -> np.ndarray:
        if name not in state_dict:
            raise InputError(
                f"there is no tensor {name} among the {len(state_dict)} given: these are not the "
                "weights of the FID's Inception network."
            )
        used[name] = value = np.asarray(state_dict[name])
        if value.ndim != ndim:
            raise InputError(
                f"the tensor {name} has the shape {value.shape}, expected {ndim} axes."
            )
        return value

    shapes = jax.eval_shape(
        InceptionV3().init, jax.random.key(0), jnp.zeros((1, 75, 75, 3), jnp.uint8)
    )["params"]
    flat = {}
    for path, form in traverse_util.flatten_dict(shapes).items():
        *module, leaf = path
        name = ".".join(module)
        if module == ["fc"]:
            value = tensor("fc.weight", 2).T
        else:
            weight = tensor(f"{name}.conv.weight", 4)
            scale, bias, mean, variance = (
                tensor(f"{name}.bn.{part}", 1).astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = scale / np.sqrt(variance + _EPSILON)
            if leaf == "kernel":
                value = weight.transpose(2, 3, 1, 0) * scale
            else:
                value = bias - mean * scale
        if value.shape != form.shape:
            raise InputError(
                f"the weights of {name or leaf} have the shape {value.shape}, expected "
                f"{form.shape}: these are not of the FID's Inception network."
            )
        flat[path] = np.ascontiguousarray(value, np.float32)
    return traverse_util.unflatten_dict(flat), used
