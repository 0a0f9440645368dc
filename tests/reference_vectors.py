"""The official vectors in tests/reference: weights anyone can regenerate, inputs and outputs.

Each file was written by running an official PyTorch implementation; `__manifest__` says how its
weights are made.
"""

import json
import zlib
from pathlib import Path

import numpy as np

DIRECTORY = Path(__file__).parent / "reference"


def arrays(name):
    """Return inputs and outputs by name, in the official layouts."""
    with np.load(DIRECTORY / f"{name}.npz") as file:
        return {k: file[k] for k in file.files if k != "__manifest__" and k[:6] != "const/"}


def weights(name):
    """Return the configuration and the state dict, its tensors filled by the manifest's rule."""
    with np.load(DIRECTORY / f"{name}.npz") as file:
        manifest = json.loads(file["__manifest__"].tobytes())
        constants = {k[6:]: file[k] for k in file.files if k.startswith("const/")}
    config = manifest["config"]
    seeds = {"G.": config.get("seed_generator"), "D.": config.get("seed_discriminator")}
    state_dict = {}
    for full_name, entry in manifest["state_dict"].items():
        seed, bare_name = config.get("seed"), full_name
        if full_name[:2] in seeds:
            seed, bare_name = seeds[full_name[:2]], full_name[2:]
        if entry["kind"] == "const":
            state_dict[full_name] = constants[full_name]
            continue
        random = np.random.default_rng([seed, zlib.crc32(bare_name.encode())])
        values = random.standard_normal(entry["shape"]).astype(np.float32)
        state_dict[full_name] = {
            "normal": lambda v, e: v * np.float32(e["scale"]),
            "one_plus_normal": lambda v, e: 1 + v * np.float32(e["scale"]),
            "positive": lambda v, e: np.abs(v) + np.float32(0.5),
            "int": lambda v, e: np.zeros(v.shape, np.int64),
        }[entry["kind"]](values, entry)
    return config, state_dict


def nhwc(images):
    """Return official images (B, C, H, W) in our layout."""
    return np.ascontiguousarray(np.transpose(images, (0, 2, 3, 1)))


def nchw(images):
    """Return our images (B, H, W, C) in the official layout."""
    return np.transpose(np.asarray(images), (0, 3, 1, 2))


def relative_error(ours, official):
    """Return the relative L2 error, as the agreement is stated."""
    ours, official = np.asarray(ours, np.float64), np.asarray(official, np.float64)
    assert ours.shape == official.shape, (ours.shape, official.shape)
    return np.linalg.norm(ours - official) / np.linalg.norm(official)
