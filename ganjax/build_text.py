"""From a configuration to the data and the models of text."""

import functools
from typing import Any

import jax.numpy as jnp

from ganjax import config, data
from ganjax.autoregressive import autoregressive
from ganjax.config import Config
from ganjax.experiment import Model, Phase
from ganjax.losses import LOSSES
from ganjax.networks.layers import as_network, rematerialized, require_choice
from ganjax.optimizers import make_optimizer
from ganjax.penalties import DISCRIMINATOR_TERMS, Term
from ganjax.seqgan import seqgan, take_all
from ganjax.text_gan import INVERSE_TEMPERATURE, take_generator, text_gan
from ganjax.types import InputError, Network


def load_data(settings: Config) -> tuple[data.TextDataset, data.TextDataset | None]:
    """Return the text to train on, and the part kept away or None."""
    text, conditional = settings.data.text, settings.model.conditional
    begins = text.lines or settings.data.source == "oracle"
    if isinstance(settings.model, config.TextGAN) and not begins:
        raise InputError(
            "a TextGAN writes sequences that begin somewhere: set data.text.lines, for one "
            "sentence a line"
        )
    return data.load_text(
        settings.data.source,
        tokens=text.tokens,
        length=text.length,
        lines=text.lines,
        long_lines=text.long_lines,
        vocab_size=text.vocab_size,
        held_out=settings.data.held_out,
        split=settings.data.split,
        data_dir=settings.data.data_dir,
        oracle_seed=text.oracle_seed,
        labels=conditional,
        feature=text.feature,
    )


def build_model(settings: Config, form: data.TextForm, num_classes: int) -> Model:
    """Return the model of a configuration for text of this form."""
    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[settings.train.precision]
    parts = settings.model.network.build((form.length, form.vocab_size), num_classes, dtype)
    if isinstance(settings.model, config.LanguageModel):
        return _language_model(settings, form, num_classes, parts)
    return _text_gan(settings, form, num_classes, parts)


def _language_model(
    settings: Config, form: data.TextForm, num_classes: int, parts: dict[str, Any]
) -> Model:
    if "discriminator" in parts:
        # The generator of a pair can be trained on its own.
        parts = {"generator": parts["generator"]}
    language = as_network(parts["generator"])
    if language.start is None:
        raise InputError(
            f"{type(settings.model.network).__name__} is no language model: train it as a TextGAN"
        )
    _require_classes(settings, language, num_classes)
    optimizer = settings.model.optimizer
    algorithm = _likelihood(settings, form, parts["generator"], optimizer, num_classes)
    shape = (form.length, form.vocab_size)
    return Model(algorithm, parts, None, shape, num_classes, text=form, language=language)


def _require_classes(settings: Config, language: Network, num_classes: int) -> None:
    if num_classes and (language.start is None or language.num_classes == 0):
        raise InputError(
            f"{type(settings.model.network).__name__} takes no classes: set model.conditional to "
            "False, or choose another network"
        )


def _likelihood(settings, form, network, optimizer, num_classes, steps=None):
    """Return the training of a language model on its likelihood."""
    if settings.train.rematerialize:
        # Only the pass that is differentiated; writing goes on as it was.
        plain = as_network(network)
        network = plain._replace(apply=rematerialized(plain).apply)
    model = settings.model
    return autoregressive(
        network,
        length=form.length,
        start_token=form.start_token,
        windows=form.windows,
        pad_token=form.pad_token,
        stop_token=form.stop_token,
        optimizer=make_optimizer(optimizer, steps or settings.train.steps),
        num_classes=num_classes,
        ema_half_life_images=model.ema_half_life_images,
        ema_ramp_up=model.ema_ramp_up,
        micro_batches=settings.train.micro_batches,
    )


def _text_gan(
    settings: Config, form: data.TextForm, num_classes: int, parts: dict[str, Any]
) -> Model:
    model = settings.model
    if form.windows:
        raise InputError("a TextGAN needs data.text.lines")
    if "discriminator" not in parts:
        raise InputError(
            f"{type(model.network).__name__} has no discriminator, but a TextGAN needs one"
        )
    require_choice("model.loss", model.loss, LOSSES)
    if settings.train.rematerialize:
        raise InputError("train.rematerialize is not for a TextGAN: leave it out")
    if model.estimator == "policy_gradient" and settings.train.micro_batches > 1:
        raise InputError("train.micro_batches does not go with policy_gradient: leave it out")
    for name, penalty in model.penalties.items():
        if penalty.interval > 1 or penalty.final_weight is not None:
            raise InputError(
                f"model.penalties.{name} of a TextGAN is in every step with one weight: leave out "
                "interval and final_weight"
            )
    language = as_network(parts["generator"])
    _require_classes(settings, language, num_classes)
    policy = model.estimator == "policy_gradient"
    if language.start is None and (policy or model.pretrain_steps):
        raise InputError(
            f"{type(model.network).__name__} is no language model: it has no likelihood to train "
            "on and takes no policy gradient; set model.estimator to gumbel, pretrain_steps to 0"
        )
    last = settings.train.steps - model.pretrain_steps - model.discriminator_pretrain_steps
    names = {"generator": 1, "discriminator": model.discriminator_steps}
    optimizers = {
        f"{name}_optimizer": make_optimizer(getattr(model, name), last, updates)
        for name, updates in names.items()
    }
    common = {
        "length": form.length,
        "start_token": form.start_token,
        "stop_token": form.stop_token,
        "pad_token": form.pad_token,
        "loss": LOSSES[model.loss],
        "num_classes": num_classes,
        "discriminator_steps": model.discriminator_steps,
        **optimizers,
    }
    networks = parts["generator"], parts["discriminator"]
    earlier = []
    if model.pretrain_steps:
        first = _likelihood(
            settings,
            form,
            parts["generator"],
            model.pretrain,
            num_classes,
            model.pretrain_steps,
        )
        earlier.append(Phase(first, model.pretrain_steps))
    if policy:
        build = functools.partial(
            seqgan,
            *networks,
            **common,
            num_rollouts=model.num_rollouts,
            rollout_rate=model.rollout_rate,
            baseline=model.baseline,
        )
        algorithm, transfer = build(), take_all
        if model.discriminator_pretrain_steps:
            alone = build(generator_steps=0)
            earlier.append(Phase(alone, model.discriminator_pretrain_steps, take_all))
    else:
        algorithm, transfer = _relaxed(settings, form, parts, networks, common), take_generator
    shape = (form.length, form.vocab_size)
    latents = parts.pop("latents", None)
    return Model(
        algorithm,
        parts,
        latents,
        shape,
        num_classes,
        text=form,
        language=language if language.start is not None else None,
        earlier=tuple(earlier),
        transfer=transfer if earlier else None,
    )


def _relaxed(settings, form, parts, networks, common):
    model = settings.model
    for name in model.penalties:
        require_choice("the name of a penalty", name, DISCRIMINATOR_TERMS)
    terms = [
        Term(name, DISCRIMINATOR_TERMS[name], penalty.weight, penalty.interval)
        for name, penalty in model.penalties.items()
    ]
    schedules = {}
    if as_network(networks[0]).start is not None:
        first, final = model.inverse_temperature, model.final_inverse_temperature

        def sharpen(step):
            if final is None:
                return jnp.float32(first)
            return first * (final / first) ** jnp.minimum(step / model.temperature_steps, 1.0)

        schedules[INVERSE_TEMPERATURE] = sharpen
    latents = {"latents": parts["latents"]} if "latents" in parts else {}
    return text_gan(
        *networks,
        vocab_size=form.vocab_size,
        straight_through=model.estimator == "straight_through",
        discriminator_terms=terms,
        ema_half_life_images=model.ema_half_life_images,
        ema_ramp_up=model.ema_ramp_up,
        micro_batches=settings.train.micro_batches,
        schedules=schedules,
        **latents,
        **common,
    )
