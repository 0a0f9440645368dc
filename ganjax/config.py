"""The configuration of a run: frozen dataclasses that the command line and JSON both read.

A configuration file is Python with a function `get_config() -> Config`; a run directory stores what
came of it and of the command line as JSON, and that is what is read back. The networks' own
dataclasses lie beside the networks; `NETWORKS` names them.
"""

import dataclasses
import difflib
import importlib.util
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganjax.evaluation import FIGURES, METRICS
from ganjax.networks.biggan import BigGAN
from ganjax.networks.conv_vae import ConvVAE
from ganjax.networks.dcgan import DCGAN
from ganjax.networks.layers import require_choice
from ganjax.networks.mlp import MLP
from ganjax.networks.r3gan import R3GAN
from ganjax.networks.sagan import SAGAN
from ganjax.networks.sngan import SNGAN
from ganjax.networks.stylegan2 import StyleGAN2
from ganjax.networks.wgan_gp import WGANGP
from ganjax.types import InputError

NETWORKS: dict[str, type] = {
    "dcgan": DCGAN,
    "mlp": MLP,
    "wgan_gp": WGANGP,
    "sngan": SNGAN,
    "sagan": SAGAN,
    "biggan": BigGAN,
    "stylegan2": StyleGAN2,
    "r3gan": R3GAN,
    "conv_vae": ConvVAE,
}


@dataclass(frozen=True)
class Data:
    """What to train on."""

    source: str = "fashion_mnist"
    """fashion_mnist, stacked_fashion_mnist, ring or grid (built in), tfds:NAME, a folder or zip of
    images, or a file (.npz, .npy, idx)."""
    split: str = "train"
    """The part of a set that has parts."""
    held_out: int = 1000
    """Examples kept away from training, for the scores."""
    image_size: tuple[int, int] | None = None
    """Height and width to resize to; needed where the images differ in size."""
    channels: int | None = None
    """1 grey, 3 colour, 4 with alpha; by default what the images have."""
    resize: str = "crop"
    """How to reach the size: crop (cover, then the centre), stretch, or pad (black)."""
    data_dir: str | None = None
    """Where tensorflow-datasets are prepared; by default its own choice."""
    memory: str = "auto"
    """device (all examples in device memory), stream (from the host), or auto (by size)."""
    num_workers: int = 0
    """Processes that decode a streamed set; 0 decodes in threads."""


@dataclass(frozen=True)
class OptimizerSettings:
    """How one network is optimised."""

    name: str = "adam"
    """adam, rmsprop or sgd."""
    learning_rate: float = 2e-4
    """The learning rate at the start."""
    beta1: float = 0.5
    """Adam's decay of the mean gradient, or the momentum of sgd."""
    beta2: float = 0.999
    """Adam's decay of the squared gradient, or that of rmsprop."""
    epsilon: float = 1e-8
    """Added to the root of the squared gradient."""
    schedule: str = "constant"
    """constant, linear or cosine, from the learning rate to final_learning_rate."""
    final_learning_rate: float = 0.0
    """Where a linear or cosine schedule ends."""
    schedule_steps: int | None = None
    """Steps until it does; by default all."""
    final_beta2: float | None = None
    """Let Adam's beta2 go there in a cosine over schedule_steps (R3GAN)."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    clip_norm: float | None = None
    """Scale gradients down to this global norm."""
    clip_weights: float | None = None
    """Clip every parameter to [-this, this] after each update (the original WGAN)."""


@dataclass(frozen=True)
class Penalty:
    """An addition to a player's loss; its key is its name. For the discriminator: r1, r2,
    gradient_penalty, classify_real or classify_real_and_fake; for the generator: path_length or
    classify_generated.
    """

    weight: float = 1.0
    """The paper's gamma or lambda."""
    interval: int = 1
    """Steps between two evaluations; above 1 with the lazy rescaling of StyleGAN2."""
    final_weight: float | None = None
    """Let the weight go there in a cosine over model.burn_in_steps (R3GAN)."""


@dataclass(frozen=True)
class ADA:
    """Augmentation whose probability follows how far the discriminator overfits."""

    pipe: str = "bgc"
    """The transforms: b, bg, bgc, bgcf, bgcfn, bgcfnc, a single one of those letters, or r3gan."""
    target: float = 0.6
    """Mean sign of the logits of real images that is aimed at."""
    ramp_images: int = 500_000
    """Images in which the probability can move by 1."""
    interval: int = 4
    """Steps between two moves."""
    initial: float = 0.0
    """The probability at the start."""
    probability: float | None = None
    """Do not follow the discriminator: rise to this probability over ramp_images (R3GAN)."""


@dataclass(frozen=True)
class GAN:
    """An adversarial game between two networks."""

    network: Any = field(default_factory=DCGAN)
    """The two networks."""
    conditional: bool = False
    """Whether the networks see the labels."""
    loss: str = "non_saturating"
    """minimax, non_saturating, non_saturating_smoothed, hinge, wasserstein, least_squares or
    relativistic."""
    generator: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How the generator is optimised."""
    discriminator: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How the discriminator is optimised."""
    penalties: Mapping[str, Penalty] = field(default_factory=dict)
    """Penalties of both networks by name."""
    burn_in_steps: int | None = None
    """Steps over which scheduled weights and the EMA's half-life go to their final values; by
    default all."""
    generator_batch_multiplier: int = 1
    """Latents of the generator's update for each image of a batch."""
    discriminator_steps: int = 1
    """Discriminator updates for one generator update."""
    share_fakes: bool = False
    """Let discriminator and generator train on the same fake images of a step (faster)."""
    joint_pass: bool = False
    """Judge real and fake images in one pass; only for a discriminator without batch norm."""
    ema_half_life_images: float | None = None
    """Half-life of the generator's running average in images; None for none."""
    ema_ramp_up: float | None = None
    """Bound the half-life by this share of the images seen so far."""
    ema_start_steps: int = 0
    """Steps before which the running average is a copy (BigGAN: 1000)."""
    ema_burn_in: bool = False
    """Let the half-life grow from zero in a cosine over burn_in_steps (R3GAN)."""
    augment: str | None = None
    """flip, diff_augment, ada, or several joined by +; or None."""
    ada: ADA = field(default_factory=ADA)
    """Settings of ada."""
    freeze_discriminator_layers: int = 0
    """Leave the first layers of the discriminator as they are (for fine-tuning)."""


@dataclass(frozen=True)
class VAE:
    """A variational autoencoder."""

    network: Any = field(default_factory=ConvVAE)
    """Encoder and decoder."""
    conditional: bool = False
    """Whether the networks see the labels."""
    likelihood: str = "bernoulli"
    """bernoulli or gaussian."""
    stddev: float = 0.2
    """Standard deviation of the gaussian likelihood, for images in [-1, 1]."""
    beta: float = 1.0
    """Weight of the KL term."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1e-3, beta1=0.9)
    )
    """How both networks are optimised."""
    ema_half_life_images: float | None = None
    """Half-life of the running average in images; None for none."""
    ema_ramp_up: float | None = None
    """Bound the half-life by this share of the images seen so far."""


@dataclass(frozen=True)
class Train:
    """How long, how fast, and what is written on the way."""

    steps: int = 10_000
    """Train steps in all."""
    batch_size: int = 64
    """Examples of one batch, over all devices."""
    micro_batches: int = 1
    """Parts of a batch over which gradients are accumulated."""
    rematerialize: bool = False
    """Compute activations again for the gradients instead of keeping them: less memory, more time
    (see docs/scaling.md)."""
    seed: int = 0
    """Of weights, latents and the order of the data."""
    precision: str = "float32"
    """float32, or bfloat16 for the networks' arithmetic (parameters stay float32)."""
    log_every_steps: int = 100
    """Steps of one dispatch to the device; metrics are their means."""
    sample_every_steps: int = 1000
    """Steps between two pictures."""
    checkpoint_every_steps: int = 1000
    """Steps between two checkpoints."""
    keep_last: int = 2
    """Latest checkpoints kept."""
    keep_best: int = 1
    """Best checkpoints kept beside them, where evaluation.every_steps is set."""
    layout: str = "jit"
    """jit (sharded arrays) or shard_map, over all devices."""
    platform: str | None = None
    """cpu, gpu or tpu; by default the best there is."""
    wandb_project: str | None = None
    """Project of Weights & Biases to log to as well; needs the extra `wandb`."""
    init_from: str | None = None
    """A run directory whose networks to start from (fine-tuning)."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of samples against real data."""

    num_samples: int = 1000
    """Samples generated for a score."""
    every_steps: int | None = None
    """Steps between two evaluations while training; None for one at the end. Only what is saved can
    be the best checkpoint: choose a multiple of train.checkpoint_every_steps."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    standing_batches: int = 0
    """Batches over which batch norm's statistics are gathered anew before samples are scored
    (BigGAN: 16 or more); 0 for the running ones."""
    metrics: tuple[str, ...] = ()
    """frechet_distance, classifier_score, kernel_distance, precision_recall, density_coverage,
    frechet_distance_at_infinity, intra_class_frechet_distance, stacked_modes; by default the first,
    and the second where the extractor knows classes."""
    extractor: str = "auto"
    """The network that judges: auto (the shipped classifier for this size, else pixels),
    fashion-mnist, cifar10, stacked-fashion-mnist, pixels, inception-v3 (see `ganjax weights`), the
    .pth of such a network, or FILE.py:FUNCTION."""
    reference: str = "held out"
    """What samples are compared with: held out, train, or any source that data.source takes, or an
    .npz of statistics (mu, sigma)."""
    reference_split: str = "train"
    """The part of such a source, where it has parts."""
    best_metric: str | None = None
    """The figure by which checkpoints are compared; by default the first of the metrics, of points
    the share of good samples."""


@dataclass(frozen=True)
class Config:
    """One experiment."""

    model: Any
    """GAN or VAE."""
    name: str = "experiment"
    """Name of the run directory."""
    data: Data = field(default_factory=Data)
    """What to train on."""
    train: Train = field(default_factory=Train)
    """How long, how fast, and what is written on the way."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """How samples are scored."""


MODELS: dict[str, type] = {"gan": GAN, "vae": VAE}
_TAGS = {**MODELS, **NETWORKS}


def to_json(config: Any) -> Any:
    """Return a configuration as what `json.dumps` takes; models and networks carry their type.

    >>> to_json(Config(model=GAN()))["model"]["network"]["type"]
    'dcgan'
    """
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        tag = [name for name, kind in _TAGS.items() if kind is type(config)]
        return {"type": tag[0], **fields} if tag else fields
    if isinstance(config, Mapping):
        return {name: to_json(value) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_json(value) for value in config]
    return config


def from_json(value: Any) -> Config:
    """Return the configuration that `to_json` wrote.

    Raises:
      InputError: a field is unknown, missing or of another type.
    """
    return _decode(value, Config, "")


def _decode(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as an instance of the annotation `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        kind = _tagged(value, MODELS if where == ".model" else NETWORKS, where)
        value = {name: item for name, item in value.items() if name != "type"}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(value, kind, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _decode(value, next(a for a in arguments if a is not type(None)), where)
    if origin is Mapping and isinstance(value, dict):
        return {k: _decode(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if origin is tuple and isinstance(value, list):
        many = len(arguments) == 2 and arguments[1] is Ellipsis
        kinds = [arguments[0]] * len(value) if many else arguments
        if len(kinds) == len(value):
            return tuple(_decode(v, k, where) for v, k in zip(value, kinds, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    # bool is an int in Python, but not in a configuration.
    if isinstance(kind, type) and type(value) is kind:
        return value
    wanted = "a mapping" if origin is Mapping else getattr(kind, "__name__", str(kind))
    if origin is tuple:
        names = ("..." if kind is Ellipsis else kind.__name__ for kind in arguments)
        wanted = f"({', '.join(names)})"
    raise InputError(f"{where.strip('.')} is {value!r}, expected {wanted}")


def _tagged(value, kinds, where):
    """Return the class of a model or a network, which its entry `type` names."""
    where, names = where.strip("."), list(kinds)
    if not isinstance(value, dict) or "type" not in value:
        raise InputError(
            f"{where} is {value!r}, expected a mapping with a type: {', '.join(names)}"
        )
    if value["type"] not in names:
        near = difflib.get_close_matches(str(value["type"]), names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        expected = " or ".join(names)
        raise InputError(f"{where} has the type {value['type']!r}, expected {expected}{hint}")
    return kinds[value["type"]]


def _decode_dataclass(value, kind, where):
    if not isinstance(value, dict):
        name = where.strip(".") or "the configuration"
        raise InputError(f"{name} is {value!r}, expected a mapping")
    hints = typing.get_type_hints(kind)
    for field_ in dataclasses.fields(kind):
        missing = dataclasses.MISSING
        needed = field_.default is missing and field_.default_factory is missing
        if needed and field_.name not in value:
            raise InputError(f"the field {f'{where}.{field_.name}'.strip('.')!r} is missing")
    for name in value:
        if name not in hints:
            raise InputError(unknown_field(f"{where}.{name}".strip("."), _names(hints, where)))
    return kind(**{n: _decode(v, hints[n], f"{where}.{n}") for n, v in value.items()})


def _names(hints, where):
    return [f"{where}.{name}".strip(".") for name in hints]


def field_names(config: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of every field that the command line can set.

    >>> "train.steps" in field_names(Config(model=GAN()))
    True
    """
    if dataclasses.is_dataclass(config):
        items = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]
    elif isinstance(config, Mapping):
        items = list(config.items())
    else:
        return [prefix]
    return [
        full for name, value in items for full in field_names(value, f"{prefix}.{name}".strip("."))
    ]


def unknown_field(name: str, known: list[str]) -> str:
    """Return the sentence for a field that does not exist, with the nearest one that does."""
    leaf = {full.rsplit(".", 1)[-1]: full for full in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:
        near = [
            leaf[match]
            for match in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(leaf), n=1)
        ]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no field {name!r}{hint or ', see --help for those there are'}"


def check(config: Config) -> None:
    """Raise an `InputError` for the first number or choice that cannot be meant."""
    train = config.train
    least = dict.fromkeys(("steps", "batch_size", "micro_batches", "log_every_steps"), 1)
    least |= dict.fromkeys(("sample_every_steps", "checkpoint_every_steps", "keep_last"), 1)
    least |= {"seed": 0, "keep_best": 0}
    values = {f"train.{name}": (getattr(train, name), bound) for name, bound in least.items()}
    # A spread of one sample is none.
    values["evaluation.num_samples"] = (config.evaluation.num_samples, 2)
    values["evaluation.standing_batches"] = (config.evaluation.standing_batches, 0)
    values["model.ema_start_steps"] = (getattr(config.model, "ema_start_steps", 0), 0)
    for name, (value, bound) in values.items():
        if value < bound:
            raise InputError(f"{name} has to be {bound} or more, got {value}")
    for metric in config.evaluation.metrics:
        require_choice("evaluation.metrics", metric, METRICS)
    best, metrics = config.evaluation.best_metric, config.evaluation.metrics
    if best is not None:
        require_choice("evaluation.best_metric", best, FIGURES)
        if metrics and not any(best in METRICS[metric].names for metric in metrics):
            raise InputError(
                f"evaluation.best_metric is {best}, which none of evaluation.metrics gives"
            )
    if config.evaluation.every_steps is not None and config.evaluation.every_steps < 1:
        raise InputError("evaluation.every_steps has to be 1 or more, or None")
    if isinstance(config.model, GAN):
        _check_schedules(config.model)
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


def optimizers(model: Any) -> dict[str, OptimizerSettings]:
    """Return the optimizer settings of a model by dotted name."""
    return {
        f"model.{f.name}": getattr(model, f.name)
        for f in dataclasses.fields(model)
        if isinstance(getattr(model, f.name), OptimizerSettings)
    }


def shipped() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    spec = importlib.util.find_spec("ganjax.configs")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(next(iter(spec.submodule_search_locations)))
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def load_file(name: str) -> Config:
    """Run a configuration file and return what its `get_config()` returns.

    Args:
      name: a path, or the name of a shipped configuration, such as `quickstart`.

    Raises:
      InputError: there is no such file, or it does not define `get_config() -> Config`.
    """
    path, known = Path(name), shipped()
    if not path.is_file():
        # `configs/quickstart.py` works from anywhere, as the README says it.
        stem = path.name.removesuffix(".py")
        in_configs = path.parent.name in ("", "configs") and not path.is_absolute()
        if not (in_configs and stem in known):
            near = difflib.get_close_matches(stem, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"shipped ones: {', '.join(known)}"
            raise InputError(f"there is no configuration {name!r}; {hint}")
        path = known[stem]
    if path.suffix != ".py":
        raise InputError(f"{name} is no Python file; a configuration defines get_config()")
    spec = importlib.util.spec_from_file_location(f"ganjax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} does not define get_config() -> ganjax.config.Config")
    config = module.get_config()
    if not isinstance(config, Config):
        raise InputError(f"get_config() of {path} returned {type(config).__name__}, not a Config")
    return config
