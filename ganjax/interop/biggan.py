"""Official BigGAN weights: the names and layouts of BigGAN-PyTorch for `ganjax.networks.biggan`.

Of its options these are fixed, as they are by default: spectral normalisation with one singular
value in both networks, batch norm, the wide discriminator. `ch` is the width of both networks
unless `G_ch` or `D_ch` is given.
"""

from collections.abc import Mapping
from typing import Any

from ganjax.interop.imported import input_shapes
from ganjax.interop.layouts import Entry, Layout, bias_to_image, conv, linear, linear_to_image, same
from ganjax.networks import biggan, resnet
from ganjax.types import InputError


def networks(config: Mapping[str, Any]) -> tuple[biggan.Generator, biggan.Discriminator]:
    """Return the generator and the discriminator that official settings describe.

    Args:
      config: official names; what is absent has the official default.
    """
    latent_dim, num_classes, shape = input_shapes("biggan", config)
    blocks = resnet.count_blocks("biggan", shape)
    if shape[0] != resnet.SMALLEST_SIDE * 2**blocks:
        raise InputError(f"image_resolution has to be a power of two, got {shape[0]}")
    shared, hierarchical = config.get("shared", True), config.get("hier", False)
    if hierarchical and not shared:
        raise InputError("hier goes together with shared; officially there is no other form")
    attention = str(config.get("attention", "64"))
    width = config.get("ch", 64)
    channels, halvings = biggan.discriminator_channels(blocks, config.get("D_ch", width))
    generator = biggan.Generator(
        shape,
        biggan.generator_channels(blocks, config.get("G_ch", width)),
        num_classes,
        attention=resnet.after_blocks(attention, resnet.generator_resolutions(blocks)),
        norm_epsilon=config.get("bn_eps", 1e-5),
        shared_dim=(config.get("shared_dim", 0) or latent_dim) if shared else 0,
        hierarchical=hierarchical,
    )
    discriminator = biggan.Discriminator(
        channels,
        halvings,
        num_classes,
        attention=biggan.discriminator_attention(attention, blocks),
    )
    return generator, discriminator


def names(config: Mapping[str, Any], part: str) -> dict[str, Entry]:
    """Return where each official tensor of a part goes.

    Args:
      config: as in `networks`.
      part: "generator" or "discriminator".
    """
    generator, discriminator = networks(config)
    if part == "generator":
        return _generator_names(generator)
    return _discriminator_names(discriminator)


def _generator_names(network):
    side = network.image_shape[0] >> (len(network.channels) - 1)
    first_map = (network.channels[0], side, side)
    # The results of the first layer are an image: its bias and singular vector are as well.
    found = _normalised_names(
        "linear", ("dense",), linear_to_image(*first_map), _image_row(first_map)
    )
    found["linear.bias"] = Entry(("params", "dense", "bias"), *bias_to_image(*first_map))
    if network.shared_dim:
        found["shared.weight"] = Entry(("params", "shared", "embedding"), *same)
    for index in range(len(network.channels) - 1):
        official, ours = f"blocks.{index}.0", (f"block{index}",)
        for name, own in (("conv1", "conv1"), ("conv2", "conv2"), ("conv_sc", "shortcut")):
            found |= _biased_names(f"{official}.{name}", (*ours, own))
        for number in (1, 2):
            name, own = f"{official}.bn{number}", (*ours, f"norm{number}")
            found |= _statistics_names(name, own)
            for affine in ("gain", "bias"):
                if network.shared_dim:
                    found |= _normalised_names(f"{name}.{affine}", (*own, affine), linear)
                else:
                    path = ("params", *own, affine, "embedding")
                    found[f"{name}.{affine}.weight"] = Entry(path, *same)
        if index in network.attention:
            found |= _attention_names(index)
    found["output_layer.0.gain"] = Entry(("params", "norm", "scale"), *same)
    found["output_layer.0.bias"] = Entry(("params", "norm", "bias"), *same)
    found |= _statistics_names("output_layer.0", ("norm",))
    return found | _biased_names("output_layer.2", ("conv",))


def _discriminator_names(network):
    found = {}
    for index, features in enumerate(network.channels):
        convs = [("conv1", "conv1"), ("conv2", "conv2")]
        if index < network.num_halvings or features != network.channels[index - 1]:
            convs.append(("conv_sc", "shortcut"))
        for name, own in convs:
            found |= _biased_names(f"blocks.{index}.0.{name}", (f"block{index}", own))
        if index in network.attention:
            found |= _attention_names(index)
    found |= _biased_names("linear", ("dense",), linear)
    return found | _normalised_names("embed", ("embedding",), same, leaf="embedding")


def _attention_names(index):
    official, ours = f"blocks.{index}.1", (f"attention{index}",)
    found = {f"{official}.gamma": Entry(("params", *ours, "gamma"), *same)}
    for name, own in (("theta", "f"), ("phi", "g"), ("g", "h"), ("o", "o")):
        found |= _normalised_names(f"{official}.{name}", (*ours, own), conv)
    return found


def _statistics_names(official, ours):
    return {
        f"{official}.stored_mean": Entry(("batch_stats", *ours, "mean"), *same),
        f"{official}.stored_var": Entry(("batch_stats", *ours, "var"), *same),
    }


def _biased_names(official, ours, layout=conv):
    bias = {f"{official}.bias": Entry(("params", *ours, "bias"), *same)}
    return _normalised_names(official, ours, layout) | bias


def _normalised_names(official, ours, layout, vector=same, leaf="kernel"):
    """Return the names of a weight with spectral normalisation, and of what that keeps."""
    spectral = ("spectral", *ours, "SpectralNorm_0")
    return {
        f"{official}.weight": Entry(("params", *ours, leaf), *layout),
        f"{official}.u0": Entry((*spectral, "u"), *vector),
        f"{official}.sv0": Entry((*spectral, "sigma"), *same),
    }


def _image_row(first_map):
    to_ours, to_official = bias_to_image(*first_map)
    return Layout(lambda row: to_ours(row)[None], lambda row: to_official(row)[None])
