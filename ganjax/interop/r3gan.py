"""Official R3GAN weights: which tensor is which (Huang et al. 2024, arXiv:2501.05441).

`config` has the official fields: `widths`, `cardinality` and `blocks` by stage from the smallest
map, `c_dim`, `c_embedding`, `z_dim`, `expansion`, `resampling_filter`. Official discriminators list
their stages from the image down.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ganjax.interop.layouts import Entry, Layout, constant, conv, image, linear, same
from ganjax.networks import r3gan
from ganjax.types import InputError

# (C, 1, 4, 4), the weight of a depthwise convolution <-> (4, 4, C)
_depthwise = Layout(
    lambda weight: np.transpose(weight[:, 0], (1, 2, 0)),
    lambda basis: np.transpose(basis, (2, 0, 1))[:, None],
)
_BLOCK = {
    "LinearLayer1.Layer.weight": ("conv1", conv),
    "LinearLayer2.Layer.weight": ("conv2", conv),
    "LinearLayer3.Layer.weight": ("conv3", conv),
    "NonLinearity1.Bias": ("bias1", same),
    "NonLinearity2.Bias": ("bias2", same),
}


def networks(config: Mapping[str, Any]) -> tuple[r3gan.Generator, r3gan.Discriminator]:
    """Return the two modules of an official configuration.

    Raises:
      InputError: the configuration has no `widths`, `cardinality` or `blocks`, or contradicts
        itself.
    """
    for name in ("widths", "cardinality", "blocks"):
        if name not in config:
            raise InputError(f"the configuration of an r3gan needs {name}, one number a stage")
    side = 4 * 2 ** (len(config["widths"]) - 1)
    if config.get("image_resolution", side) != side:
        raise InputError(
            f"{len(config['widths'])} widths make images of {side}x{side}, but image_resolution is "
            f"{config['image_resolution']}"
        )
    embeddings = _embedding_dims(config)
    common = {
        "widths": tuple(config["widths"]),
        "groups": tuple(config["cardinality"]),
        "blocks": tuple(config["blocks"]),
        "num_classes": config.get("c_dim", 0),
        "expansion": config.get("expansion", 2),
        "taps": tuple(_taps(config).tolist()),
    }
    shape = (side, side, config.get("image_channels", 3))
    return (
        r3gan.Generator(shape, embedding_dim=embeddings["generator"], **common),
        r3gan.Discriminator(embedding_dim=embeddings["discriminator"], **common),
    )


def names(config: Mapping[str, Any], part: str) -> dict[str, Entry]:
    """Return where each official tensor of a part, "generator" or "discriminator", goes."""
    return _generator(config) if part == "generator" else _discriminator(config)


def _generator(config):
    widths, table = config["widths"], {}
    for stage in range(len(widths)):
        prefix = f"MainLayers.{stage}.Layers."
        if stage == 0:
            table[f"{prefix}0.Basis"] = _entry("basis", image)
            table[f"{prefix}0.LinearLayer.weight"] = _entry("basis_weights", linear)
        else:
            wider = widths[stage] != widths[stage - 1]
            _transition(table, f"{prefix}0.", stage, config, wider)
        for block in range(config["blocks"][stage]):
            _block(table, f"{prefix}{block + 1}.", stage, block)
    table["AggregationLayer.Layer.weight"] = _entry("to_image", conv)
    return _labels(table, config)


def _discriminator(config):
    widths = config["widths"]
    table = {"ExtractionLayer.Layer.weight": _entry("from_image", conv)}
    for position, stage in enumerate(reversed(range(len(widths)))):
        prefix = f"MainLayers.{position}.Layers."
        blocks = config["blocks"][stage]
        for block in range(blocks):
            _block(table, f"{prefix}{block}.", stage, block)
        if stage:
            wider = widths[stage] != widths[stage - 1]
            _transition(table, f"{prefix}{blocks}.", stage, config, wider)
        else:
            table[f"{prefix}{blocks}.Basis.weight"] = _entry("basis", _depthwise)
            table[f"{prefix}{blocks}.LinearLayer.weight"] = _entry("basis_weights", linear)
    return _labels(table, config)


def _block(table, prefix, stage, block):
    for name, (ours, layout) in _BLOCK.items():
        table[prefix + name] = _entry(f"stage{stage}_block{block}", ours, layout)


def _transition(table, prefix, stage, config, changes_width):
    taps = _taps(config)
    filter_ = np.outer(taps, taps) / taps.sum() ** 2
    table[f"{prefix}Resampler.Kernel"] = constant(filter_.astype(np.float32))
    if changes_width:
        table[f"{prefix}LinearLayer.Layer.weight"] = _entry(f"stage{stage}_transition", conv)


def _labels(table, config):
    if config.get("c_dim", 0):
        table["EmbeddingLayer.weight"] = _entry("labels", "embedding", linear)
    return table


def _entry(*path_and_layout):
    *path, layout = path_and_layout
    return Entry(("params", *path), *layout)


def _taps(config):
    """Return the filter that is applied between pixels: the official one on repeated pixels."""
    return np.convolve(config.get("resampling_filter", (1, 2, 1)), (1, 1)).astype(float)


def _embedding_dims(config):
    """Return the lengths of the labels' embeddings; in the paper's runs the two differ."""
    default = {"generator": 64, "discriminator": config["widths"][0]}
    return {
        part: config.get(f"{part}_c_embedding", config.get("c_embedding", dim))
        for part, dim in default.items()
    }
