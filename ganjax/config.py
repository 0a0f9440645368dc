"""The configuration of a run: frozen dataclasses that the command line and JSON both read.

A configuration file is Python with a function `get_config() -> Config`; a run directory stores what
came of it and of the command line as JSON, and that is what is read back. The networks' own
dataclasses lie beside the networks; `NETWORKS` names them.
"""

import dataclasses
import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganjax import plain
from ganjax.networks.biggan import BigGAN
from ganjax.networks.conv_text import ConvText
from ganjax.networks.conv_vae import ConvVAE
from ganjax.networks.dcgan import DCGAN
from ganjax.networks.gpt import GPT
from ganjax.networks.mlp import MLP
from ganjax.networks.r3gan import R3GAN
from ganjax.networks.recurrent import LSTM
from ganjax.networks.sagan import SAGAN
from ganjax.networks.sngan import SNGAN
from ganjax.networks.stylegan2 import StyleGAN2
from ganjax.networks.text import LSTMPair, RelGAN, SeqGAN
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
    "gpt": GPT,
    "lstm": LSTM,
    "seqgan": SeqGAN,
    "relgan": RelGAN,
    "lstm_pair": LSTMPair,
    "conv_text": ConvText,
}


@dataclass(frozen=True)
class Text:
    """How a text becomes tokens; only for models of text."""

    tokens: str = "characters"
    """characters, bytes, words (between spaces), bpe, or the path of a tokenizer.json."""
    length: int = 64
    """Tokens of a sequence; of a line the most it may have, its end included."""
    lines: bool = False
    """Take each line for itself; otherwise the text is one stream of windows."""
    long_lines: str = "refuse"
    """What to do with lines that are longer: refuse, cut or drop."""
    vocab_size: int | None = None
    """The most words, characters or byte pairs to tell apart; rarer ones are unknown then.
    Lines have three tokens more: padding, start and end."""
    oracle_seed: int = 0
    """Of the oracle's weights and sequences."""
    feature: str | None = None
    """Of tfds:NAME, which text to read; by default the one called text, or the only one."""


@dataclass(frozen=True)
class Data:
    """What to train on."""

    source: str = "fashion_mnist"
    """fashion_mnist, stacked_fashion_mnist, ring or grid (built in), tfds:NAME, a folder or zip of
    images, or a file (.npz, .npy, idx). Of text: tiny_shakespeare or oracle (built in), a .txt or
    .txt.gz, a folder of them, or tfds:NAME."""
    split: str = "train"
    """The part of a set that has parts."""
    held_out: int = 1000
    """Examples kept away from training, for the scores; of a running text, windows at its end."""
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
    text: Text = field(default_factory=Text)
    """How a text becomes tokens."""


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
    """Steps over which the learning rate rises from zero; a schedule begins after them."""
    weight_decay: float = 0.0
    """What matrices lose of themselves, times the learning rate (AdamW)."""
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
class LanguageModel:
    """A model of the next token, trained on its likelihood."""

    network: Any = field(default_factory=GPT)
    """The network."""
    conditional: bool = False
    """Tell the network the class of each line: needs data.text.lines and a text with classes."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1e-3, beta1=0.9)
    )
    """How it is optimised."""
    ema_half_life_images: float | None = None
    """Half-life of the running average in sequences; None for none."""
    ema_ramp_up: float | None = None
    """Bound the half-life by this share of the sequences seen so far."""


@dataclass(frozen=True)
class TextGAN:
    """An adversarial game over text, after training the generator on the likelihood."""

    network: Any = field(default_factory=LSTMPair)
    """The two networks."""
    conditional: bool = False
    """Tell both networks the class of each line, as of a LanguageModel."""
    estimator: str = "gumbel"
    """How the generator learns through choices: gumbel (relaxed tokens), straight_through (tokens,
    with the derivative of relaxed ones), or policy_gradient (SeqGAN)."""
    loss: str = "non_saturating"
    """As of a GAN; of policy_gradient the discriminator's."""
    generator: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How the generator is optimised while it plays."""
    discriminator: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How the discriminator is optimised."""
    pretrain: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1e-2, beta1=0.9, clip_norm=5.0)
    )
    """How the generator is optimised on the likelihood."""
    pretrain_steps: int = 0
    """Steps of that; the rest of train.steps is adversarial."""
    discriminator_pretrain_steps: int = 0
    """Steps that train the discriminator alone after it, part of train.steps (policy_gradient)."""
    discriminator_steps: int = 1
    """Discriminator updates for one generator update."""
    penalties: Mapping[str, Penalty] = field(default_factory=dict)
    """Penalties of the discriminator by name, as of a GAN."""
    inverse_temperature: float = 1.0
    """How sharp relaxed tokens are; where final_inverse_temperature is set, at the start."""
    final_inverse_temperature: float | None = None
    """Let it grow there exponentially over temperature_steps (RelGAN: 1 to 1000)."""
    temperature_steps: int = 5000
    """Steps over which it would; RelGAN's 5,000 are more than it trains for."""
    num_rollouts: int = 16
    """Sequences for each choice (policy_gradient)."""
    rollout_rate: float = 0.8
    """What the weights that roll out keep of themselves in an update (policy_gradient)."""
    baseline: bool = False
    """Take the mean reward off each place's (policy_gradient; not in the paper)."""
    ema_half_life_images: float | None = None
    """Half-life of the generator's running average in sequences; None for none. Not with
    policy_gradient."""
    ema_ramp_up: float | None = None
    """Bound the half-life by this share of the sequences seen so far."""


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
    on_divergence: str = "stop"
    """What follows a loss, gradient or weight that is NaN or infinite: stop, skip (leave that step
    out), or roll_back (to the last checkpoint, and on with other batches and random numbers)."""
    max_roll_backs: int = 5
    """Roll-backs of a run after which the next divergence stops it."""
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
    and the second where the extractor knows classes. Of text: perplexity, bits_per_character,
    nll_oracle, nll_generator, bleu, self_bleu, distinct; by default those that the data allows."""
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
    """GAN, VAE, LanguageModel or TextGAN."""
    name: str = "experiment"
    """Name of the run directory."""
    data: Data = field(default_factory=Data)
    """What to train on."""
    train: Train = field(default_factory=Train)
    """How long, how fast, and what is written on the way."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """How samples are scored."""


MODELS: dict[str, type] = {
    "gan": GAN,
    "vae": VAE,
    "language_model": LanguageModel,
    "text_gan": TextGAN,
}
OF_TEXT = (LanguageModel, TextGAN)


def to_json(config: Any) -> Any:
    """Return a configuration as what `json.dumps` takes; models and networks carry their type.

    >>> to_json(Config(model=GAN()))["model"]["network"]["type"]
    'dcgan'
    """
    return plain.encode(config, {**MODELS, **NETWORKS})


def from_json(value: Any) -> Config:
    """Return the configuration that `to_json` wrote.

    Raises:
      InputError: a field is unknown, missing or of another type.
    """
    return plain.decode(value, Config, lambda where: MODELS if where == ".model" else NETWORKS)


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
