"""Every shipped configuration lowers for GPUs and TPUs, in their own form, from a machine without.

A program that lowers may still fail to compile or run there; what is tested is that nothing in a
step asks for the platform that it is traced on, and that what was written for CPUs stays there.
"""

import dataclasses
import functools
import re
from collections import Counter

import jax
import pytest
from jax import lax

from ganjax import build, config, cost
from ganjax.data import TextForm

BATCH, CLASSES = 4, 10
# Of one example, by `data.source`.
SHAPES = {
    "fashion_mnist": (28, 28, 1),
    "ring": (2,),
    "grid": (2,),
    "images": (64, 64, 3),
    "tfds:cifar10": (32, 32, 3),
    "stacked_fashion_mnist": (28, 28, 3),
}
# What no shipped configuration asks for: (configuration, its model's fields, those of `train`).
OTHERS = {
    "bfloat16": ("hinge", {}, {"precision": "bfloat16"}),
    "bfloat16 vae": ("vae", {}, {"precision": "bfloat16"}),
    "conditional vae": ("vae", {"conditional": True, "likelihood": "gaussian"}, {}),
    "minimax, no average": ("dcgan", {"loss": "minimax", "ema_half_life_images": None}, {}),
    "conditional points": ("mlp_ring", {"conditional": True}, {}),
    "conditional critic": ("wgan_gp", {"conditional": True}, {"precision": "bfloat16"}),
    "micro-batches": ("folder", {"share_fakes": False}, {"micro_batches": 2}),
    "rematerialized": ("relativistic", {}, {"rematerialize": True}),
}
# Every day one of each kind; the others are slow.
EVERYDAY = ("quickstart", "vae", "conditional critic", "r3gan_small")
CASES = [
    pytest.param(case, marks=() if case in EVERYDAY else pytest.mark.slow)
    for case in (*config.shipped(), *OTHERS)
]


@functools.cache
def model_of(case):
    name, model, train = OTHERS.get(case, (case, {}, {}))
    settings = config.load_file(name)
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, **model),
        train=dataclasses.replace(settings.train, batch_size=BATCH, **train),
    )
    num_classes = CLASSES if settings.model.conditional else 0
    if isinstance(settings.model, config.OF_TEXT):
        text = settings.data.text
        windows = settings.data.source == "tiny_shakespeare"
        form = TextForm(50, text.length, windows, 1, None if windows else 2, 0)
        return settings, build.build_model(settings, (text.length, 50), 0, form)
    return settings, build.build_model(settings, SHAPES[settings.data.source], num_classes)


def inputs_of(model):
    example = model.example_shape, BATCH, model.num_classes
    return cost.step_inputs(model.algorithm, *example, tokens=model.text is not None)


@functools.lru_cache(1)
def step_of(case):
    """Return the traced train step."""
    _, model = model_of(case)
    return jax.jit(model.algorithm.train_step).trace(*inputs_of(model))


@functools.lru_cache(1)
def sampler_of(case):
    """Return the traced sampler of four."""
    _, model = model_of(case)
    state, _ = inputs_of(model)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(lambda state, key: model.algorithm.sample(state, key, 4)).trace(state, key)


def lower(traced, platform):
    """Return the HLO as the compiler of the platform gets it."""
    return traced.lower(lowering_platforms=(platform,)).as_text("hlo")


def convolves(settings, model):
    """Return whether the networks have convolutions."""
    return len(model.shape) == 3 or type(settings.model.network).__name__ == "ConvText"


def convolutions(text):
    """Return whether each convolution has permuted dimensions, as XLA's own gradients do."""
    labels = re.findall(r" convolution\(.*dim_labels=([^,\s]+)", text)
    return [re.fullmatch(r"b01f_01io->b01f", label) is None for label in labels]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_step_lowers_to_the_platform(case, platform):
    settings, model = model_of(case)
    text = lower(step_of(case), platform)
    penalties = getattr(settings.model, "penalties", {})
    lazy = {penalty.interval for penalty in penalties.values()} - {1}
    # The choice of a platform leaves no branch; a lazy penalty is one, and so is each use of an
    # augmentation that does nothing while its probability is zero.
    branches = len(re.findall(r" conditional\(", text))
    adaptive = "ada" in (getattr(settings.model, "augment", None) or "")
    assert branches > len(lazy) if adaptive else branches == len(lazy)
    permuted = convolutions(text)
    assert bool(permuted) == convolves(settings, model)
    assert any(permuted) == bool(permuted)
    if settings.train.precision == "bfloat16":
        made = re.findall(r"= (\w+)\[.* convolution\(", text)
        # The smallest maps of two families stay in float32.
        mixed = type(settings.model.network).__name__ in ("StyleGAN2", "R3GAN")
        assert set(made) == ({"bf16", "f32"} if mixed else {"bf16"})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_sampler_lowers_to_the_platform(case, platform):
    text = lower(sampler_of(case), platform)
    assert " conditional(" not in text
    assert ("convolution(" in text) == convolves(*model_of(case))


@pytest.mark.parametrize("case", ["conditional_dcgan", "wgan_gp", "vae"])
def test_elsewhere_a_step_has_no_form_of_a_cpu(case, monkeypatch):
    def instructions():
        return Counter(re.findall(r"= (\S+ [\w-]+)\(", lower(step_of(case), "cuda")))

    chosen = instructions()
    model_of.cache_clear()
    step_of.cache_clear()
    monkeypatch.setattr(lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    only_default = instructions()
    model_of.cache_clear()
    step_of.cache_clear()
    assert chosen == only_default


@pytest.mark.parametrize("case", ["conditional_dcgan", "wgan_gp", "vae"])
def test_on_a_cpu_the_same_step_has_no_permuted_convolution(case):
    permuted = convolutions(lower(step_of(case), "cpu"))
    assert permuted
    assert not any(permuted)
