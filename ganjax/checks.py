"""Numbers and choices of a configuration that cannot be meant."""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ganjax.config import GAN, OF_TEXT, Config, TextGAN, optimizers
from ganjax.evaluation import FIGURES, METRICS, TEXT_FIGURES, TEXT_METRICS
from ganjax.networks.layers import require_choice
from ganjax.types import InputError

LARGEST_IMAGE = 1 << 14  # pixels a side; decoding larger ones takes more memory than there is


def check(config: Config) -> None:
    """Raise an `InputError` for the first number or choice that cannot be meant."""
    for name, value in _leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} is {value}, expected a finite number")
    train = config.train
    if not train.seed < 1 << 32 or not train.steps < 1 << 31:
        raise InputError(
            f"train.seed and train.steps have to be below 2^32 and 2^31, got {train.seed} and "
            f"{train.steps}"
        )
    for size in config.data.image_size or ():
        if not 1 <= size <= LARGEST_IMAGE:
            raise InputError(f"data.image_size has to be 1 to {LARGEST_IMAGE}, got {size}")
    for name, value in _leaves(getattr(config.model, "network", None)):
        sized = name.endswith(("_dim", "width", "_hidden", "heads", "num_layers"))
        sized = sized and name != "shared_dim"  # 0 where labels share none
        for number in value if isinstance(value, tuple) else (value,):
            if sized and isinstance(number, int) and number < 1:
                raise InputError(f"model.network.{name} has to be 1 or more, got {number}")
        if name.endswith("dropout") and not 0 <= value < 1:
            raise InputError(f"model.network.{name} has to be 0 or more and below 1, got {value}")
    least = dict.fromkeys(("steps", "batch_size", "micro_batches", "log_every_steps"), 1)
    least |= dict.fromkeys(("sample_every_steps", "checkpoint_every_steps", "keep_last"), 1)
    least |= {"seed": 0, "keep_best": 0, "max_roll_backs": 0}
    values = {f"train.{name}": (getattr(train, name), bound) for name, bound in least.items()}
    # A spread of one sample is none.
    values["evaluation.num_samples"] = (config.evaluation.num_samples, 2)
    values["evaluation.standing_batches"] = (config.evaluation.standing_batches, 0)
    values["model.ema_start_steps"] = (getattr(config.model, "ema_start_steps", 0), 0)
    for name, (value, bound) in values.items():
        if value < bound:
            raise InputError(f"{name} has to be {bound} or more, got {value}")
    of_text = isinstance(config.model, OF_TEXT)
    known, figures = (TEXT_METRICS, TEXT_FIGURES) if of_text else (METRICS, FIGURES)
    for metric in config.evaluation.metrics:
        require_choice("evaluation.metrics", metric, known)
    best, metrics = config.evaluation.best_metric, config.evaluation.metrics
    if best is not None:
        require_choice("evaluation.best_metric", best, figures)
        if metrics and not any(best in known[metric].names for metric in metrics):
            raise InputError(
                f"evaluation.best_metric is {best}, which none of evaluation.metrics gives"
            )
    if config.evaluation.every_steps is not None and config.evaluation.every_steps < 1:
        raise InputError("evaluation.every_steps has to be 1 or more, or None")
    if isinstance(config.model, GAN):
        _check_schedules(config.model)
    if isinstance(config.model, TextGAN):
        _check_phases(config)
    if train.batch_size % train.micro_batches:
        raise InputError(
            f"train.batch_size {train.batch_size} does not divide into {train.micro_batches} "
            "micro-batches"
        )
    choices = {
        "data.resize": (config.data.resize, ("crop", "stretch", "pad")),
        "data.memory": (config.data.memory, ("auto", "device", "stream")),
        "train.precision": (train.precision, ("float32", "bfloat16")),
        "train.layout": (train.layout, ("jit", "shard_map")),
        "train.on_divergence": (train.on_divergence, ("stop", "skip", "roll_back")),
    }
    for prefix, value in optimizers(config.model).items():
        choices[f"{prefix}.name"] = (value.name, ("adam", "rmsprop", "sgd"))
        choices[f"{prefix}.schedule"] = (value.schedule, ("constant", "linear", "cosine"))
        if not (value.learning_rate > 0 and math.isfinite(value.learning_rate)):
            raise InputError(
                f"{prefix}.learning_rate has to be positive, got {value.learning_rate}"
            )
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            near = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{name} is {value!r}, expected {' or '.join(allowed)}{hint}")


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field that is no configuration itself, by its dotted name."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}" if name else key)


def _check_phases(config: Config) -> None:
    model = config.model
    choices = ("gumbel", "straight_through", "policy_gradient")
    require_choice("model.estimator", model.estimator, choices)
    policy = model.estimator == "policy_gradient"
    before = model.pretrain_steps + model.discriminator_pretrain_steps
    least = {"pretrain_steps": 0, "discriminator_pretrain_steps": 0, "discriminator_steps": 1}
    least |= {"num_rollouts": 1, "temperature_steps": 1}
    for name, bound in least.items():
        if getattr(model, name) < bound:
            raise InputError(f"model.{name} has to be {bound} or more, got {getattr(model, name)}")
    if before >= config.train.steps:
        raise InputError(
            f"train.steps {config.train.steps} has to be more than the {before} of model."
            "pretrain_steps and model.discriminator_pretrain_steps, which are part of it"
        )
    for name in ("inverse_temperature", "final_inverse_temperature"):
        value = getattr(model, name)
        if value is not None and not value > 0:
            raise InputError(f"model.{name} has to be positive, got {value}")
    if policy and (model.penalties or model.ema_half_life_images is not None):
        raise InputError(
            "model.penalties and model.ema_half_life_images do not go with policy_gradient: leave "
            "them out"
        )
    if not policy and model.discriminator_pretrain_steps:
        raise InputError("model.discriminator_pretrain_steps is for policy_gradient: leave it out")


def _check_schedules(model: GAN) -> None:
    for name, penalty in model.penalties.items():
        if penalty.final_weight is not None and not penalty.weight > 0:
            raise InputError(
                f"model.penalties.{name} goes from weight {penalty.weight} to final_weight "
                f"{penalty.final_weight}: the weight it starts from has to be positive"
            )
    if model.ema_burn_in and model.ema_half_life_images is None:
        raise InputError("model.ema_burn_in needs model.ema_half_life_images, got None")
    counts = {f"{name}.schedule_steps": o.schedule_steps for name, o in optimizers(model).items()}
    for name, value in {"model.burn_in_steps": model.burn_in_steps, **counts}.items():
        if value is not None and value < 1:
            raise InputError(f"{name} has to be 1 or more, or None; got {value}")
