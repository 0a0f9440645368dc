"""Official weights as a run directory, which every command takes."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ganjax import config, interop
from ganjax.build import build_model, describe_data, load_data
from ganjax.checkpoint import Checkpointer
from ganjax.config import GAN, Config, Data, OptimizerSettings, Penalty, Train
from ganjax.interop.imported import PREFIXES, input_shapes
from ganjax.networks.biggan import BigGAN
from ganjax.networks.r3gan import R3GAN
from ganjax.networks.stylegan2 import StyleGAN2
from ganjax.run import RunDirectory, device_name, versions
from ganjax.types import InputError, TrainState

# No source has this name; the sentence of a command that looks for it says what is missing.
_NO_DATA = "(none was given to convert; name one with --data)"


def convert(
    path: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    discriminator: str | os.PathLike | None = None,
    data_settings: Data | None = None,
) -> RunDirectory:
    """Write a run directory from an official `.pkl`, `.pth` or `.pt`.

    It is at step 0: both networks and the generator's running average are the official ones, the
    optimizers' moments are fresh. The configuration has the loss and the optimizers that the
    architecture is trained with; fine-tuning (`train.init_from`) takes its own. A discriminator
    that the file does not hold is a fresh one.

    Args:
      path: the official file; see `ganjax.interop.read`.
      directory: new or empty.
      discriminator: a second file, where the first holds the generator alone.
      data_settings: what the model is scored on, at the model's size; by default nothing, and only
        `evaluate` needs it.

    Returns:
      The run directory.

    Raises:
      InputError: a file cannot be read or is of another architecture, the directory is not empty,
        or the data does not fit the model.
    """
    official = interop.read_file(path, discriminator=discriminator)
    latent_dim, num_classes, shape = input_shapes(official.architecture, official.config)
    del latent_dim
    averaged = _import(official, path, ema=True)
    raw = _import(official, path, ema=False)
    settings = Config(
        name=Path(path).stem,
        data=dataclasses.replace(
            data_settings or Data(source=_NO_DATA), image_size=shape[:2], channels=shape[2]
        ),
        model=dataclasses.replace(
            _MODELS[official.architecture],
            network=NETWORK_SETTINGS[official.architecture](json.loads(averaged.config)),
            conditional=bool(num_classes),
        ),
        train=Train(steps=1),
    )
    described = _describe(settings, shape, num_classes)
    batch_size = min(settings.train.batch_size, described["num_examples"] or 64)
    training = dataclasses.replace(settings.train, batch_size=batch_size)
    settings = dataclasses.replace(settings, train=training)
    model = build_model(settings, shape, num_classes)
    # What the compiler could still gain takes longer than the program, which runs once.
    quickly = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    state = jax.jit(model.algorithm.init, compiler_options=quickly)(jax.random.key(0))
    state = _filled(state, raw, averaged)
    run = RunDirectory(directory)
    run.create(
        {
            "config": config.to_json(settings),
            "data": described,
            "versions": versions(),
            "device": device_name(),
            "official": {
                "file": os.fspath(path),
                "architecture": official.architecture,
                "config": json.loads(averaged.config),
            },
        }
    )
    metadata = {
        "step": 0,
        "phase": 0,
        "config": config.to_json(settings),
        "versions": versions(),
    }
    with Checkpointer(run.checkpoints) as checkpointer:
        checkpointer.save(0, state, metadata=metadata)
    return run


def _import(official, path, *, ema):
    weights = official.state_dict(ema=ema)
    if not any(name.startswith(PREFIXES["generator"]) for name in weights):
        raise InputError(
            f"{os.fspath(path)} holds a discriminator alone; give the generator's file"
        )
    return interop.import_state_dict(official.architecture, official.config, weights)


def _describe(settings: Config, shape: tuple[int, ...], num_classes: int) -> Mapping[str, Any]:
    """Return what a run directory keeps of its data."""
    if settings.data.source == _NO_DATA:
        return {
            "name": "none",
            "split": "none",
            "shape": list(shape),
            "num_classes": num_classes,
            "class_names": [],
            "num_examples": 0,
            "fingerprint": "none",
        }
    train, _ = load_data(settings)
    if num_classes and train.num_classes != num_classes:
        raise InputError(
            f"the model has {num_classes} classes, but {train.name} has {train.num_classes or 'no'}"
        )
    return describe_data(train, num_classes)


def _filled(
    state: TrainState, raw: interop.ImportedGAN, averaged: interop.ImportedGAN
) -> TrainState:
    """Return a fresh state with official networks in it."""
    players = dict(state.players)
    for name in PREFIXES:
        variables = getattr(raw, f"{name}_variables")
        if variables is None:
            continue
        player = players[name]
        ours = {"params": player.params, **player.variables}
        variables = _checked(name, variables, ours)
        params = variables.pop("params")
        players[name] = player.replace(params=params, variables=variables)
    average = _checked("generator", averaged.generator_variables, state.ema["generator"])
    return state.replace(players=players, ema={**state.ema, "generator": average})


def _checked(name, variables, ours):
    """Return official variables in the tree of ours; raise where they are not the same."""
    expected = jax.tree.map(np.shape, dict(ours), is_leaf=lambda x: hasattr(x, "shape"))
    given = jax.tree.map(np.shape, dict(variables), is_leaf=lambda x: hasattr(x, "shape"))
    if expected != given:
        raise InputError(
            f"the official {name} has settings that a configuration of ganjax cannot have; use "
            "ganjax.interop.import_state_dict"
        )
    return dict(variables)


def _stylegan2(official: Mapping[str, Any]) -> StyleGAN2:
    ours = {f.name: f.default for f in dataclasses.fields(StyleGAN2)}
    same = ("z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max", "architecture")
    same += ("d_architecture", "mbstd_group_size", "conv_clamp")
    official = {"mapping_layers": 8, "conv_clamp": None, **official}
    return StyleGAN2(**{name: official.get(name, ours[name]) for name in same})


def _r3gan(official: Mapping[str, Any]) -> R3GAN:
    generator, discriminator = interop.networks("r3gan", official)
    return R3GAN(
        latent_dim=input_shapes("r3gan", official)[0],
        widths=generator.widths,
        groups=generator.groups,
        stage_blocks=generator.blocks,
        expansion=generator.expansion,
        taps=generator.taps,
        generator_embedding_dim=generator.embedding_dim,
        discriminator_embedding_dim=discriminator.embedding_dim,
    )


def _biggan(official: Mapping[str, Any]) -> BigGAN:
    generator, _ = interop.networks("biggan", official)
    width = official.get("ch", 64)
    return BigGAN(
        latent_dim=input_shapes("biggan", official)[0],
        generator_width=official.get("G_ch", width),
        discriminator_width=official.get("D_ch", width),
        shared=bool(generator.shared_dim),
        shared_dim=generator.shared_dim,
        hierarchical=generator.hierarchical,
        attention=str(official.get("attention", "64")),
    )


NETWORK_SETTINGS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "stylegan2": _stylegan2,
    "r3gan": _r3gan,
    "biggan": _biggan,
}
# How each is trained, for those who go on.
_MODELS = {
    "stylegan2": GAN(
        generator=OptimizerSettings(learning_rate=2.5e-3, beta1=0.0, beta2=0.99),
        discriminator=OptimizerSettings(learning_rate=2.5e-3, beta1=0.0, beta2=0.99),
        penalties={"r1": Penalty(weight=1.0, interval=16)},
        ema_half_life_images=20_000.0,
        ema_ramp_up=0.05,
        augment="ada",
    ),
    "r3gan": GAN(
        loss="relativistic",
        generator=OptimizerSettings(learning_rate=5e-5, beta1=0.0, beta2=0.99),
        discriminator=OptimizerSettings(learning_rate=5e-5, beta1=0.0, beta2=0.99),
        penalties={"r1": Penalty(weight=0.1), "r2": Penalty(weight=0.1)},
        ema_half_life_images=500_000.0,
    ),
    "biggan": GAN(
        loss="hinge",
        generator=OptimizerSettings(learning_rate=1e-4, beta1=0.0, beta2=0.999),
        discriminator=OptimizerSettings(learning_rate=4e-4, beta1=0.0, beta2=0.999),
        ema_half_life_images=200_000.0,
    ),
}
