"""Which architecture official tensors are of, and the settings that their shapes tell."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ganjax.types import InputError

Tensors = Mapping[str, np.ndarray]
# Names that only one architecture has, of a generator and of a discriminator.
_SIGNS = {
    "stylegan2": ("synthesis.b4.const", "b4.out.weight"),
    "r3gan": ("AggregationLayer.Layer.weight", "ExtractionLayer.Layer.weight"),
    "biggan": ("output_layer.0.gain", "embed.u0"),
}


def architecture_of(networks: Mapping[str, Tensors]) -> str:
    """Return the architecture of the networks of a file.

    Raises:
      InputError: it is none that can be imported.
    """
    names = {name for tensors in networks.values() for name in tensors}
    for architecture, signs in _SIGNS.items():
        if names & set(signs):
            return architecture
    if any(name.startswith("synthesis.input.") for name in names):
        raise InputError("this is a StyleGAN3 with its alias-free generator; StyleGAN2 can be read")
    known = ", ".join(_SIGNS)
    shown = ", ".join(sorted(names)[:3])
    raise InputError(f"these are not the weights of {known}; the first names are {shown}")


def part_of(tensors: Tensors) -> str:
    """Return "D" for the tensors of a discriminator that comes alone, otherwise "G"."""
    return "D" if any(signs[1] in tensors for signs in _SIGNS.values()) else "G"


def _stylegan2(networks: Mapping[str, Tensors], attributes: Mapping[str, Mapping]) -> dict:
    generator = networks.get("G_ema") or networks.get("G") or {}
    discriminator = networks.get("D") or {}
    config: dict[str, Any] = {}
    if generator:
        found = {**attributes.get("G", {}), **attributes.get("G_ema", {})}
        config |= _stylegan2_generator(generator, found)
    if discriminator:
        found = attributes.get("D", {})
        sides = _sides(discriminator, "b")
        if f"b{sides[-1]}.skip.weight" in discriminator:
            config["d_architecture"] = "resnet"
        else:
            every = f"b{sides[0]}.fromrgb.weight" in discriminator
            config["d_architecture"] = "skip" if every else "orig"
        if "mapping.embed.weight" in discriminator:
            config["c_dim"] = discriminator["mapping.embed.weight"].shape[1]
        if "b4.mbstd.group_size" in found:
            config["mbstd_group_size"] = found["b4.mbstd.group_size"]
        clamp = f"b{sides[-1]}.conv0.conv_clamp"
        if not generator and clamp in found:
            config["conv_clamp"] = found[clamp]
        if not generator:
            channels = {s: discriminator[f"b{s}.conv0.weight"].shape[1] for s in sides if s > 4}
            channels[4] = discriminator["b4.conv.weight"].shape[0]
            rgb = discriminator[f"b{sides[-1]}.fromrgb.weight"]
            config |= _channels(channels) | {
                "img_resolution": sides[-1],
                "img_channels": rgb.shape[1],
            }
    return config


def _stylegan2_generator(tensors: Tensors, attributes: Mapping[str, Any]) -> dict:
    sides = _sides(tensors, "synthesis.b")
    last = f"synthesis.b{sides[-1]}"
    config = {
        "img_resolution": sides[-1],
        "img_channels": tensors[f"{last}.torgb.weight"].shape[0],
        "w_dim": tensors["synthesis.b4.conv1.affine.weight"].shape[1],
        "mapping_layers": sum(
            name.startswith("mapping.fc") and name.endswith(".weight") for name in tensors
        ),
        "c_dim": 0,
    }
    if f"{last}.conv1.conv_clamp" in attributes:
        config["conv_clamp"] = attributes[f"{last}.conv1.conv_clamp"]
    z_dim = tensors["mapping.fc0.weight"].shape[1]
    if "mapping.embed.weight" in tensors:
        embed = tensors["mapping.embed.weight"]
        config["c_dim"] = embed.shape[1]
        z_dim -= embed.shape[0]
    config["z_dim"] = z_dim
    if f"{last}.skip.weight" in tensors:
        config["architecture"] = "resnet"
    else:
        config["architecture"] = "skip" if "synthesis.b4.torgb.weight" in tensors else "orig"
    channels = {side: tensors[f"synthesis.b{side}.conv1.weight"].shape[0] for side in sides}
    return config | _channels(channels)


def _sides(tensors: Tensors, prefix: str) -> list[int]:
    """Return the sizes of the maps of a StyleGAN2 in increasing order."""
    blocks = {name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)}
    return sorted(int(block) for block in blocks if block.isdigit())


def _channels(channels: Mapping[int, int]) -> dict[str, int]:
    """Return the settings that the channels min(channel_base / side, channel_max) come from."""
    largest = max(channels.values())
    bases = {side * count for side, count in channels.items() if count < largest}
    # Where no map is narrower any base will do that does not make one so.
    base = max(bases) if bases else largest * max(channels)
    return {"channel_base": base, "channel_max": largest}


def _r3gan(networks: Mapping[str, Tensors], attributes: Mapping[str, Mapping]) -> dict:
    del attributes
    generator = networks.get("G_ema") or networks.get("G")
    discriminator = networks.get("D")
    tensors = generator or discriminator
    stages = 1 + max(int(name.split(".")[1]) for name in tensors if name[:11] == "MainLayers.")
    # A generator's stages begin with what is not a block, a discriminator's end with it.
    order, first = (range(stages), 1) if generator else (range(stages)[::-1], 0)
    config: dict[str, Any] = {"widths": [], "cardinality": [], "blocks": []}
    for stage in order:
        prefix = f"MainLayers.{stage}.Layers."
        outer = tensors[f"{prefix}{first}.LinearLayer1.Layer.weight"]
        grouped = tensors[f"{prefix}{first}.LinearLayer2.Layer.weight"]
        config["widths"].append(outer.shape[1])
        config["cardinality"].append(grouped.shape[0] // grouped.shape[1])
        config["blocks"].append(
            sum(
                name.startswith(prefix) and name.endswith("LinearLayer2.Layer.weight")
                for name in tensors
            )
        )
        config["expansion"] = outer.shape[0] // outer.shape[1]
    config["c_dim"] = 0
    for part, network in (("generator", generator), ("discriminator", discriminator)):
        if network and "EmbeddingLayer.weight" in network:
            embedding, config["c_dim"] = network["EmbeddingLayer.weight"].shape
            config[f"{part}_c_embedding"] = embedding
    if generator:
        first_layer = generator["MainLayers.0.Layers.0.LinearLayer.weight"]
        config["z_dim"] = first_layer.shape[1] - config.get("generator_c_embedding", 0)
        config["image_channels"] = generator["AggregationLayer.Layer.weight"].shape[0]
    else:
        config["image_channels"] = discriminator["ExtractionLayer.Layer.weight"].shape[1]
    config["image_resolution"] = 4 * 2 ** (stages - 1)
    kernels = [array for name, array in tensors.items() if name.endswith("Resampler.Kernel")]
    if kernels:
        config["resampling_filter"] = _resampling_filter(np.asarray(kernels[0], np.float64))
    return config


def _resampling_filter(kernel: np.ndarray) -> list[int | float]:
    """Return the filter whose convolution with (1, 1), times itself, is a kernel."""
    row = kernel.sum(0)
    taps, _ = np.polydiv(row / row[0], (1.0, 1.0))
    whole = np.round(taps)
    return (whole.astype(int) if np.allclose(taps, whole, atol=1e-4) else taps).tolist()


def _biggan(networks: Mapping[str, Tensors], attributes: Mapping[str, Mapping]) -> dict:
    del attributes
    generator = networks.get("G_ema") or networks.get("G")
    discriminator = networks.get("D")
    if not generator:
        raise InputError("a BigGAN's discriminator comes with its generator; give that file")
    blocks = 1 + max(int(name.split(".")[1]) for name in generator if name[:7] == "blocks.")
    shared = "shared.weight" in generator
    gain = generator["blocks.0.0.bn1.gain.weight"]
    latent = generator["linear.weight"].shape[1]
    last = generator[f"blocks.{blocks - 1}.0.conv2.weight"].shape[0]
    config: dict[str, Any] = {
        "image_resolution": 4 * 2**blocks,
        "channels": generator["output_layer.2.weight"].shape[0],
        # The last map is four times as wide as the width at 32 pixels, twice at 64.
        "ch": last // {3: 4, 4: 2}.get(blocks, 1),
        "shared": shared,
        "n_classes": generator["shared.weight"].shape[0] if shared else gain.shape[0],
        "shared_dim": generator["shared.weight"].shape[1] if shared else 0,
        # A share of the latent goes to the first layer and to each block.
        "hier": shared and gain.shape[1] > generator["shared.weight"].shape[1],
    }
    config["z_dim"] = latent * (blocks + 1) if config["hier"] else latent
    if discriminator:
        deepest = 1 + max(
            int(name.split(".")[1]) for name in discriminator if name[:7] == "blocks."
        )
        widest = discriminator[f"blocks.{deepest - 1}.0.conv2.weight"].shape[0]
        config["D_ch"] = widest // (4 if blocks == 3 else 16)
    attention = [int(name.split(".")[1]) for name in generator if name.endswith(".theta.weight")]
    config["attention"] = "_".join(str(8 * 2**index) for index in sorted(attention)) or "0"
    return config


CONFIGS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "stylegan2": _stylegan2,
    "r3gan": _r3gan,
    "biggan": _biggan,
}
