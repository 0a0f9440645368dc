"""Official StyleGAN2 weights: NVIDIA's names and layouts for `ganjax.networks.stylegan2`.

Names as in the state dictionaries of stylegan2-ada-pytorch and of stylegan3's StyleGAN2.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ganjax.interop.imported import input_shapes
from ganjax.interop.layouts import Entry, conv, image, linear, linear_from_image, same
from ganjax.networks import stylegan2
from ganjax.networks.stylegan2_layers import TAPS, block_name, block_sizes, num_channels
from ganjax.types import InputError

_D_MAPPING_LAYERS = 8


def networks(config: Mapping[str, Any]) -> tuple[stylegan2.Generator, stylegan2.Discriminator]:
    """Return the generator and the discriminator that official settings describe.

    Args:
      config: official names; `img_resolution` is needed, the rest has the official default.
    """
    z_dim, num_classes, shape = input_shapes("stylegan2", config)
    block_sizes(shape[:2])
    if config.get("mbstd_group_size", 4) is None:
        raise InputError("mbstd_group_size has to be a number; give the batch size that was used")
    common = {
        "channel_base": config.get("channel_base", 32768),
        "channel_max": config.get("channel_max", 512),
        "conv_clamp": config.get("conv_clamp"),
        "num_classes": num_classes,
    }
    generator = stylegan2.Generator(
        shape,
        z_dim,
        config.get("w_dim", 512),
        config.get("mapping_layers", 8),
        architecture=config.get("architecture", "skip"),
        mixing_probability=0.0,  # officially the loss mixes, not the network
        **common,
    )
    discriminator = stylegan2.Discriminator(
        architecture=config.get("d_architecture", "resnet"),
        mapping_layers=_D_MAPPING_LAYERS,
        mbstd_group_size=config.get("mbstd_group_size", 4),
        **common,
    )
    return generator, discriminator


def names(config: Mapping[str, Any], part: str) -> dict[str, Entry]:
    """Return where each official tensor of a part goes.

    Args:
      config: as in `networks`.
      part: "generator" or "discriminator".
    """
    generator, discriminator = networks(config)
    sizes = block_sizes(generator.image_shape[:2])
    if part == "generator":
        return _generator_names(generator, sizes)
    return _discriminator_names(discriminator, sizes)


def _generator_names(network, sizes):
    smallest = block_name(sizes[0])
    found = {"mapping.w_avg": Entry(("style_mean", "mean"), *same)}
    found |= _mapping_names("mapping", network)
    const = ("params", "synthesis", f"{smallest}_const")
    found[f"synthesis.{smallest}.const"] = Entry(const, *image)
    for size in sizes:
        block, first = block_name(size), size == sizes[0]
        found[f"synthesis.{block}.resample_filter"] = _filter()
        for layer in ("conv1",) if first else ("conv0", "conv1"):
            official = f"synthesis.{block}.{layer}"
            ours = ("synthesis", f"{block}_{layer}")
            found |= _styled_names(official, ours)
            found[f"{official}.resample_filter"] = _filter()
            strength = ("params", *ours, "noise_strength")
            found[f"{official}.noise_strength"] = Entry(strength, *same)
            found[f"{official}.noise_const"] = Entry(("noise_const", *ours, "noise"), *same)
        if size == sizes[-1] or network.architecture == "skip":
            found |= _styled_names(f"synthesis.{block}.torgb", ("synthesis", f"{block}_torgb"))
        if network.architecture == "resnet" and not first:
            kernel = ("params", "synthesis", f"{block}_skip", "kernel")
            found[f"synthesis.{block}.skip.weight"] = Entry(kernel, *conv)
            found[f"synthesis.{block}.skip.resample_filter"] = _filter()
    return found


def _discriminator_names(network, sizes):
    smallest = block_name(sizes[0])
    found = _mapping_names("mapping", network) if network.num_classes else {}
    for size in sizes:
        block, first = block_name(size), size == sizes[0]
        layers = ["conv"] if first else ["conv0", "conv1"]
        if network.architecture == "skip" or size == sizes[-1]:
            layers.append("fromrgb")
        if network.architecture == "resnet" and not first:
            layers.append("skip")
        for layer in layers:
            found |= _layer_names(
                f"{block}.{layer}", (f"{block}_{layer}",), conv, bias=layer != "skip"
            )
            found[f"{block}.{layer}.resample_filter"] = _filter()
        if not first:
            found[f"{block}.resample_filter"] = _filter()
    features = num_channels(sizes[0], network.channel_base, network.channel_max)
    flat = linear_from_image(features, *sizes[0])
    found |= _layer_names(f"{smallest}.fc", (f"{smallest}_fc",), flat)
    return found | _layer_names(f"{smallest}.out", (f"{smallest}_out",), linear)


def _mapping_names(official, network):
    layers = [f"fc{layer}" for layer in range(network.mapping_layers)]
    if network.num_classes:
        layers.append("embed")
    found = {}
    for layer in layers:
        found |= _layer_names(f"{official}.{layer}", ("mapping", layer), linear)
    return found


def _styled_names(official, ours):
    return _layer_names(official, ours, conv) | _layer_names(
        f"{official}.affine", (*ours, "affine"), linear
    )


def _layer_names(official, ours, layout, bias=True):
    found = {f"{official}.weight": Entry(("params", *ours, "kernel"), *layout)}
    if bias:
        found[f"{official}.bias"] = Entry(("params", *ours, "bias"), *same)
    return found


def _filter():
    def make():
        taps = np.asarray(TAPS, np.float32)
        return np.outer(taps, taps) / np.sum(taps) ** 2

    return Entry(None, None, make)
