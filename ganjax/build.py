"""From a configuration to objects: networks, algorithm and data."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ganjax import build_text, checkpoint, checks, config, data, players
from ganjax.augment import AUGMENTATIONS, Augment, ada, from_names, scheduled
from ganjax.config import Config
from ganjax.experiment import Experiment, Model, Phase
from ganjax.gan import gan
from ganjax.losses import LOSSES
from ganjax.networks.layers import as_network, rematerialized, require_choice
from ganjax.networks.standing import standing_statistics
from ganjax.optimizers import cosine, first_layers, freeze, lazy_correction, make_optimizer
from ganjax.penalties import DISCRIMINATOR_TERMS, GENERATOR_TERMS, Term
from ganjax.run import RunDirectory
from ganjax.safeguard import skip_non_finite
from ganjax.seqgan import take_all
from ganjax.text_gan import take_generator
from ganjax.types import Array, InputError, Player, TrainState
from ganjax.vae import LIKELIHOODS, reconstruct, vae


def build(settings: Config) -> Experiment:
    """Load the data of a configuration and build what trains on it.

    Raises:
      InputError: the configuration or the data is not what it should be.
    """
    checks.check(settings)
    train, held_out = load_data(settings)
    if train.num_examples < settings.train.batch_size:
        raise InputError(
            f"{train.name} has {train.num_examples} examples to train on, fewer than one batch of "
            f"{settings.train.batch_size}; lower train.batch_size or data.held_out"
        )
    if settings.model.conditional and not train.num_classes:
        raise InputError(f"model.conditional needs labels, but {train.name} has none")
    num_classes = train.num_classes if settings.model.conditional else 0
    model = build_model(settings, data_shape(train), num_classes, form_of(train))
    earlier, transfer = model.earlier, model.transfer
    if settings.train.init_from is not None:
        RunDirectory(settings.train.init_from).record()  # fails before anything is written
        begin = functools.partial(_start_from, settings.train.init_from)
        if earlier:
            earlier = (earlier[0]._replace(transfer=begin), *earlier[1:])
        else:
            transfer = begin
    before = sum(phase.steps for phase in earlier)
    phases = (*earlier, Phase(model.algorithm, settings.train.steps - before, transfer))
    if settings.train.on_divergence == "skip":
        phases = tuple(p._replace(algorithm=skip_non_finite(p.algorithm)) for p in phases)
    return Experiment(settings, model, phases, train, held_out)


def load_data(settings: Config) -> tuple[data.Dataset, data.Dataset | None]:
    """Return the data to train on, and the data kept away or None."""
    if isinstance(settings.model, config.OF_TEXT):
        return build_text.load_data(settings)
    return data.load(
        settings.data.source,
        split=settings.data.split,
        held_out=settings.data.held_out,
        image_size=settings.data.image_size,
        channels=settings.data.channels,
        resize=settings.data.resize,
        labels=settings.model.conditional,
        data_dir=settings.data.data_dir,
    )


def form_of(dataset: data.Dataset) -> data.TextForm | None:
    """Return what the tokens of a data set are, or None where it is none of text."""
    return getattr(dataset, "form", None)


def data_shape(dataset: data.Dataset) -> tuple[int, ...]:
    """Return the shape of one example as models take it: of text (length, vocabulary size)."""
    form = form_of(dataset)
    return dataset.features["image"][0] if form is None else (form.length, form.vocab_size)


def build_model(
    settings: Config,
    shape: Sequence[int],
    num_classes: int,
    form: data.TextForm | None = None,
) -> Model:
    """Return the model of a configuration for examples of `shape`.

    Args:
      settings: the configuration.
      shape: of one example: (H, W, C) of an image, (2,) of a point.
      num_classes: 0 for an unconditional model.
      form: what the tokens are, for a model of text.
    """
    checks.check(settings)
    families = {config.GAN: _build_gan, config.VAE: _build_vae}
    families |= dict.fromkeys(config.OF_TEXT, build_text.build_model)
    if type(settings.model) not in families:
        names = ", ".join(kind.__name__ for kind in families)
        raise InputError(f"model has to be one of {names}; got {type(settings.model).__name__}")
    given = (tuple(shape), num_classes)
    if isinstance(settings.model, config.OF_TEXT):
        given = (form, num_classes)
    try:
        return families[type(settings.model)](settings, *given)
    except InputError:
        raise
    except ValueError as error:  # from pieces that know nothing of configurations
        raise InputError(f"this model cannot be built: {error}") from error


def _build_gan(settings: Config, shape: tuple[int, ...], num_classes: int) -> Model:
    model = settings.model
    parts = _parts(model.network, ("generator", "discriminator"), settings, shape, num_classes)
    require_choice("model.loss", model.loss, LOSSES)
    for name in model.penalties:
        require_choice("the name of a penalty", name, {**DISCRIMINATOR_TERMS, **GENERATOR_TERMS})
    tables = {"generator": GENERATOR_TERMS, "discriminator": DISCRIMINATOR_TERMS}
    terms, optimizers = {}, {}
    for player, table in tables.items():
        terms[player] = [
            Term(name, table[name], penalty.weight, penalty.interval)
            for name, penalty in model.penalties.items()
            if name in table
        ]
        players.check_terms(terms[player])
        optimizer = getattr(model, player)
        lazy = {term.interval for term in terms[player]} - {1}
        if len(lazy) > 1:
            raise InputError(
                f"penalties of the {player} have the intervals {sorted(lazy)}: lazy ones need a "
                "common interval"
            )
        updates = model.discriminator_steps if player == "discriminator" else 1
        for interval in lazy:
            optimizer = lazy_correction(optimizer, interval)
            updates += 1 / interval
        optimizers[player] = make_optimizer(optimizer, settings.train.steps, updates)
    if model.freeze_discriminator_layers:
        optimizers["discriminator"] = freeze(
            optimizers["discriminator"],
            first_layers(
                parts["discriminator"], shape, model.freeze_discriminator_layers, num_classes
            ),
        )
    algorithm = gan(
        *_trained(parts, ("generator", "discriminator"), settings),
        latents=parts["latents"],
        loss=LOSSES[model.loss],
        generator_optimizer=optimizers["generator"],
        discriminator_optimizer=optimizers["discriminator"],
        generator_terms=terms["generator"],
        discriminator_terms=terms["discriminator"],
        discriminator_steps=model.discriminator_steps,
        share_fakes=model.share_fakes,
        joint_pass=model.joint_pass,
        num_classes=num_classes,
        ema_half_life_images=model.ema_half_life_images,
        ema_ramp_up=model.ema_ramp_up,
        augment=_augment(model),
        micro_batches=settings.train.micro_batches,
        generator_batch_multiplier=model.generator_batch_multiplier,
        schedules=_schedules(model, settings.train.steps),
    )
    latents = parts.pop("latents")
    return Model(algorithm, parts, latents, shape, num_classes)


def _augment(model: config.GAN) -> Augment | None:
    """Return the augmentations of a model, one after another."""
    if model.augment is None:
        return None
    values = dataclasses.asdict(model.ada)
    probability = values.pop("probability")

    def adaptive():
        if probability is None:
            return ada(**values)
        return scheduled(values["pipe"], probability, values["ramp_images"])

    try:
        return from_names(model.augment, {**AUGMENTATIONS, "ada": adaptive})
    except ValueError as error:
        raise InputError(f"model.augment is {model.augment!r}: {error}") from error


def _schedules(model: config.GAN, steps: int) -> dict[str, Callable[[Array], Array]]:
    """Return the factors on hyper-parameters that change during a training."""
    burn_in = model.burn_in_steps or steps
    schedules = {
        name: cosine(penalty.final_weight / penalty.weight, burn_in)
        for name, penalty in model.penalties.items()
        if penalty.final_weight is not None
    }
    if model.ema_half_life_images is None:
        return schedules
    if model.ema_burn_in:
        grow = cosine(0.0, burn_in)
        schedules["ema_half_life_images"] = lambda step: 1.0 - grow(step)
    elif model.ema_start_steps:
        schedules["ema_half_life_images"] = lambda step: jnp.float32(step >= model.ema_start_steps)
    return schedules


def _build_vae(settings: Config, shape: tuple[int, ...], num_classes: int) -> Model:
    model = settings.model
    parts = _parts(model.network, ("encoder", "decoder"), settings, shape, num_classes)
    require_choice("model.likelihood", model.likelihood, LIKELIHOODS)
    algorithm = vae(
        *_trained(parts, ("encoder", "decoder"), settings),
        latents=parts["latents"],
        likelihood=model.likelihood,
        stddev=model.stddev,
        beta=model.beta,
        optimizer=make_optimizer(model.optimizer, settings.train.steps),
        num_classes=num_classes,
        ema_half_life_images=model.ema_half_life_images,
        ema_ramp_up=model.ema_ramp_up,
        micro_batches=settings.train.micro_batches,
    )

    def reconstruct_images(state, images, labels=None, *, ema=True):
        return reconstruct(
            parts["encoder"], parts["decoder"], model.likelihood, state, images, labels, ema=ema
        )

    latents = parts.pop("latents")
    return Model(algorithm, parts, latents, shape, num_classes, reconstruct_images)


def _parts(network, names, settings, shape, num_classes):
    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[settings.train.precision]
    parts = network.build(shape, num_classes, dtype)
    if not set(names) <= set(parts):
        raise InputError(
            f"{type(network).__name__} has the networks {', '.join(parts)}, but a "
            f"{type(settings.model).__name__} needs {' and '.join(names)}"
        )
    return parts


def _trained(parts, names, settings):
    """Return the networks in the form in which they are trained."""
    wrap = rematerialized if settings.train.rematerialize else as_network
    return [wrap(parts[name]) for name in names]


def _start_from(path: str, state: TrainState, previous: TrainState | None) -> TrainState:
    """Return the fresh state with the networks of another run."""
    del previous
    run = RunDirectory(path)
    source = config.from_json(run.record()["config"]).model
    if isinstance(source, config.LanguageModel) and "discriminator" in state.players:
        return _start_from_language_model(run, state)
    like = {
        "players": {
            name: {"params": player.params, "variables": player.variables}
            for name, player in state.players.items()
        }
    }
    if state.ema:
        like["ema"] = state.ema
    loaded, _ = checkpoint.restore_subtree(run.checkpoints, jax.eval_shape(lambda: like))
    players = {
        name: player.replace(**loaded["players"][name]) for name, player in state.players.items()
    }
    running = state.running
    if "rollout" in running:  # the copy of a generator that SeqGAN rolls out with
        running = {**running, "rollout": jax.tree.map(jnp.array, players["generator"].params)}
    return state.replace(players=players, ema=loaded.get("ema", state.ema), running=running)


def _start_from_language_model(run: RunDirectory, state: TrainState) -> TrainState:
    """Return the fresh state of a text GAN whose generator, and nothing else, was trained alone."""
    like = {"players": {"generator": {"params": state.players["generator"].params}}}
    loaded, _ = checkpoint.restore_subtree(run.checkpoints, jax.eval_shape(lambda: like))
    player = Player(loaded["players"]["generator"]["params"], {}, ())
    before = state.replace(players={"generator": player}, ema={})
    return (take_all if "rollout" in state.running else take_generator)(state, before)


def with_standing_statistics(
    model: Model, state: TrainState, num_batches: int, *, batch_size: int = 64, seed: int = 0
) -> TrainState:
    """Return the state with the generator's batch statistics gathered anew.

    Both those of the weights and those of their running average, see
    `ganjax.networks.standing.standing_statistics`; labels are every class in turn.

    Raises:
      InputError: the generator has no batch norm.
    """
    network = as_network(model.networks["generator"])
    player = state.players["generator"]
    if "batch_stats" not in player.variables:
        raise InputError("standing statistics need a generator with batch norm, which this is not")

    def inputs(key):
        labels = players.default_labels(None, batch_size, model.num_classes)
        return model.latents.sample(key, batch_size), labels

    @jax.jit
    def gather(variables):
        key = jax.random.key(seed)
        return standing_statistics(network, variables, inputs, key, num_batches)["batch_stats"]

    variables = {**player.variables, "batch_stats": gather(players.all_variables(player))}
    average = state.ema
    if "generator" in average:
        own = dict(average["generator"])
        average = {**average, "generator": {**own, "batch_stats": gather(own)}}
    return state.replace(
        players={**state.players, "generator": player.replace(variables=variables)}, ema=average
    )


def images_per_call(shape: Sequence[int], most: int) -> int:
    """Return how many samples of this shape to make at once, `most` up to 64x64 pixels.

    250 images of 256x256 took 38 GB of a StyleGAN2 on a CPU.
    """
    if len(shape) != 3:
        return most
    return max(1, min(most, most * 64**2 // (shape[0] * shape[1])))


def num_parameters(tree: Any) -> int:
    """Return how many numbers a tree of arrays or shapes holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def describe_data(dataset: data.Dataset, num_classes: int) -> Mapping[str, Any]:
    """Return what a run directory keeps of its data, as JSON-able values."""
    return {
        "name": dataset.name,
        "split": dataset.split,
        "shape": list(data_shape(dataset)),
        "num_classes": num_classes,
        "class_names": list(dataset.class_names) if num_classes else [],
        "num_examples": dataset.num_examples,
        "fingerprint": dataset.fingerprint,
        **({} if form_of(dataset) is None else {"text": form_of(dataset).to_json()}),
    }
