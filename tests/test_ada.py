"""ADA's pipe against the official implementation's numbers, its probability, and every layout.

The layouts need several devices, which have to be asked for before JAX starts: this file runs
itself in a process of its own with eight virtual ones.
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import ganjax
from ganjax import axes, cost, sharding
from ganjax.augment import PIPES, Pipe, ada, apply_pipe, fixed, scheduled
from ganjax.types import InputError

geometry, corruption, numbers = (
    importlib.import_module(f"ganjax.augment.{name}")
    for name in ("geometry", "corruption", "numbers")
)

KEY = jax.random.key(0)
GEOMETRY = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
TRANSFORMS = (*GEOMETRY, *COLOR, "imgfilter", "noise", "cutout")
DEVICES, BATCH = 8, 16


def noise_images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


# The official implementation.

PERCENTILES = (0.2, 0.8)
VECTORS = {
    **{name: Pipe(**{name: 1.0}) for name in TRANSFORMS if name != "noise"},
    "bgc": PIPES["bgc"],
    "bgcf+cutout": dataclasses.replace(PIPES["bgcf"], cutout=1.0),
    "nonsquare_bgc": dataclasses.replace(PIPES["bgc"], rotate90=0.0),
}


@pytest.fixture(scope="module")
def vectors():
    import reference_vectors

    official = reference_vectors.arrays("ada_augment")
    return {name: reference_vectors.nhwc(array) for name, array in official.items()}


@pytest.fixture(scope="module")
def outputs(vectors, quick_jit):
    def everything(square, nonsquare):
        return {
            f"{name}/{q}": apply_pipe(
                nonsquare if name.startswith("nonsquare") else square, KEY, 1.0, pipe, percentile=q
            )
            for name, pipe in VECTORS.items()
            for q in PERCENTILES
        }

    return quick_jit(everything)(vectors["images"], vectors["images_nonsquare"])


def relative_error(ours, official):
    assert ours.shape == official.shape
    return np.linalg.norm(np.asarray(ours, np.float64) - official) / np.linalg.norm(official)


def test_every_vector_is_looked_at(vectors):
    others = {"images", "images_nonsquare", "cotangent", "bgc/0.8/input_gradient"}
    assert set(vectors) - others == {f"{name}/{q}" for name in VECTORS for q in PERCENTILES}


@pytest.mark.parametrize("percentile", PERCENTILES)
@pytest.mark.parametrize("name", VECTORS)
def test_transforms_are_the_official_ones(name, percentile, vectors, outputs):
    key = f"{name}/{percentile}"
    assert relative_error(outputs[key], vectors[key]) < 5e-6


def test_the_gradient_is_the_official_one(vectors, quick_jit):
    def loss(images):
        return jnp.sum(apply_pipe(images, KEY, 1.0, percentile=0.8) * vectors["cotangent"])

    gradient = quick_jit(jax.grad(loss))(vectors["images"])
    assert relative_error(gradient, vectors["bgc/0.8/input_gradient"]) < 1e-5


# Probability.


def test_zero_probability_is_the_identity(quick_jit):
    images = noise_images(3, 9, 14, 3)

    @quick_jit
    def both(images, probability):
        def run(images):
            return apply_pipe(images, KEY, probability, "bgcfnc")

        out, back = jax.vjp(run, images)
        return out, back(jnp.ones_like(out))[0]

    out, gradient = both(images, jnp.float32(0))
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(gradient, np.ones_like(images))
    out, gradient = both(images, jnp.float32(1))
    assert np.abs(out - images).mean((1, 2, 3)).min() > 0.1
    assert np.abs(gradient - 1).mean() > 0.01


@pytest.fixture(scope="module")
def often(quick_jit):
    """Return by how much each transform changes each of 300 equal images at 0.4 * 0.5."""
    image = noise_images(1, 9, 9, 3)
    images = jnp.broadcast_to(image, (300, 9, 9, 3))

    def everything(images, probability):
        outs = {n: apply_pipe(images, KEY, probability, Pipe(**{n: 0.5})) for n in TRANSFORMS}
        return {n: jnp.abs(out - images).mean((1, 2, 3)) for n, out in outs.items()}

    return quick_jit(everything)(images, jnp.float32(0.4))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_image_is_changed_with_strength_times_probability(name, often):
    distances = np.asarray(often[name])
    changed = distances > 2e-4
    # Where nothing is to be seen of it: drawn as no flip, no turn, a move by zero pixels.
    shows = {"xflip": 1 / 2, "rotate90": 3 / 4, "lumaflip": 1 / 2, "xint": 1 - (1 / 2.25) ** 2}
    probability = 0.2 if name != "imgfilter" else 1 - 0.8**4  # each of four bands
    expected = probability * shows.get(name, 1.0)
    spread = 4 * np.sqrt(expected * (1 - expected) / len(changed))
    assert changed.mean() == pytest.approx(expected, abs=spread)
    if name not in ("xflip", "rotate90", "lumaflip", "xint", "cutout"):
        assert len(np.unique(distances[changed].round(7))) > 0.9 * changed.sum()


def test_the_pipe_is_named_and_channels_are_right():
    with pytest.raises(InputError, match=r"one of b, blit, .*, r3gan, or a Pipe; got 'bcg'"):
        ada("bcg")
    with pytest.raises(ValueError, match=r"1 or 3 channels, got 4; .* such as \"bg\""):
        jax.eval_shape(lambda x: apply_pipe(x, KEY, 1.0, "c"), jnp.zeros((1, 4, 4, 4)))
    with pytest.raises(ValueError, match="xflip=-1"):
        Pipe(xflip=-1)
    with pytest.raises(ValueError, match="4 strengths"):
        Pipe(imgfilter_bands=(1.0,))


# Sizes and channels.


def test_channels_move_alike(quick_jit):
    images = noise_images(3, 8, 6, 5)
    run = quick_jit(lambda images: apply_pipe(images, KEY, 0.9, "bg"))
    together, apart = run(images), [run(images[..., i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(together, jnp.concatenate(apart, -1), atol=1e-5)


def test_a_grey_image_changes_like_one_of_three_channels(quick_jit):
    images = noise_images(6, 5, 4, 1)
    run = quick_jit(lambda images: apply_pipe(images, KEY, 0.9, "c"))
    grey, colored = run(images), run(jnp.repeat(images, 3, -1))
    np.testing.assert_allclose(grey, colored.mean(-1, keepdims=True), atol=1e-5)
    assert np.ptp(np.asarray(grey)) > 0


@pytest.mark.parametrize("shape", [(1, 7), (2, 3), (12, 13), (40, 14)])
def test_repeats_that_are_left_out_change_nothing(shape, monkeypatch, quick_jit):
    images = noise_images(2, *shape, 1)
    # Far beyond the reflection, where zeros begin, as well as within it.
    pipe = Pipe(scale=1.0, rotate=1.0, xfrac=1.0, scale_std=3.0, xfrac_std=0.7)

    @quick_jit
    def forms(images):
        drawn = numbers.draw(KEY, 2, 1.0)
        drawn.values["scale"] = jnp.array([[-1.0], [-0.2]])
        compact = geometry.transform(images, drawn, pipe)
        monkeypatch.setattr(geometry, "_LEAST_COMPACT", 10**6)
        geometry._matrix.cache_clear()
        whole = geometry.transform(images, drawn, pipe)
        monkeypatch.setattr(geometry, "_LARGEST_MATRIX", 0)
        return compact, whole, geometry.transform(images, drawn, pipe)

    compact, whole, slices = forms(images)
    geometry._matrix.cache_clear()
    np.testing.assert_allclose(compact, whole, atol=1e-5)
    np.testing.assert_allclose(slices, whole, atol=1e-5)
    if min(shape) > 2:
        assert np.mean(np.asarray(whole)[0] == 0) > 0.2


def test_large_images_are_enlarged_alike(monkeypatch, quick_jit):
    @quick_jit
    def forms(images):
        slices = geometry._enlarge(images)
        monkeypatch.setattr(geometry, "_LARGEST_MATRIX", 1000)
        return slices, geometry._enlarge(images)

    slices, product = forms(noise_images(1, 130, 15, 1))
    np.testing.assert_allclose(slices, product, atol=1e-5)


def test_sampling_and_its_transpose_are_each_others_gradients(quick_jit):
    size, images, samples = (5, 6), noise_images(2, 5, 6, 3), noise_images(2, 4, 7, 3, seed=1)
    rows = jnp.abs(noise_images(2, 4, 7, seed=2)) * 4
    columns = jnp.abs(noise_images(2, 4, 7, seed=3)) * 5

    @quick_jit
    def both(images, samples):
        sampled, back = jax.vjp(lambda x: geometry._sample(size, x, rows, columns), images)
        spread, forth = jax.vjp(
            lambda y: geometry._sample_transpose(size, y, rows, columns), samples
        )
        return sampled, spread, back(samples)[0], forth(images)[0]

    sampled, spread, back, forth = both(images, samples)
    np.testing.assert_allclose(jnp.vdot(sampled, samples), jnp.vdot(images, spread), rtol=1e-4)
    np.testing.assert_allclose(back, spread, atol=1e-6)
    np.testing.assert_allclose(forth, sampled, atol=1e-6)


def test_bands_of_the_filter_add_up_to_everything():
    bank = corruption._filter_bank()
    np.testing.assert_allclose(bank.sum(0), np.eye(43)[21], atol=1e-12)
    np.testing.assert_allclose(corruption._band_matrices(5).sum(0), np.eye(5), atol=1e-6)


# Derivatives.


@pytest.mark.slow
def test_a_penalty_through_the_pipe_has_its_derivatives(quick_jit):
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        images = jnp.asarray(random.uniform(-1, 1, (2, 6, 7, 3)))
        weights = jnp.asarray(random.normal(size=(6, 7, 3)))

        def penalty(weights, images, probability):
            def logits(images):
                seen = apply_pipe(images, KEY, probability, "bgcf")
                return jnp.sum(jnp.tanh(seen * weights))

            return jnp.sum(jax.grad(logits)(images) ** 2)

        value_and_gradient = quick_jit(jax.value_and_grad(penalty, (0, 1)))
        for probability in (jnp.float32(0.8), jnp.float32(0)):
            for argument, slope in enumerate(value_and_gradient(weights, images, probability)[1]):
                direction = jnp.asarray(random.normal(size=slope.shape))
                values = []
                for step in (1e-5, -1e-5):
                    moved = [weights, images]
                    moved[argument] = moved[argument] + step * direction
                    values.append(value_and_gradient(*moved, probability)[0])
                assert slope.dtype == jnp.float64
                assert np.isfinite(slope).all()
                difference = (values[0] - values[1]) / 2e-5
                np.testing.assert_allclose(jnp.vdot(slope, direction), difference, rtol=1e-6)


def test_members_of_a_population_have_probabilities_of_their_own(quick_jit):
    images = noise_images(2, 6, 5, 1)
    probabilities = jnp.array([0.0, 1.0])

    def run(probability):
        return apply_pipe(images, KEY, probability, "bgc")

    together = quick_jit(jax.vmap(run))(probabilities)
    np.testing.assert_array_equal(together[0], images)
    np.testing.assert_allclose(together[1], quick_jit(run)(probabilities[1]), atol=1e-5)


# What sets the probability.


def follow(augment, signs, images_per_step=100):
    """Return the probability after each step of signs, by one scan, and how often it was traced."""
    traces = []

    def step(state, sign):
        traces.append(None)
        state = augment.update(state, {"logits/real_sign": sign}, images_per_step)
        return state, augment.metrics(state)["augment/probability"]

    _, probabilities = jax.jit(lambda signs: lax.scan(step, augment.init(), signs))(signs)
    return np.asarray(probabilities), len(traces)


def test_ada_moves_every_few_steps_by_the_images_seen():
    augment = ada(target=0.5, ramp_images=10_000, interval=2, initial=0.02)
    # Means of two: 0.6, 0.5, 0.1, -1, -1, 1; the third and fourth would leave [0, 1].
    signs = jnp.array([0.9, 0.3, 0.4, 0.6, 0.1, 0.1, -1, -1, -1, -1, 1, 1], jnp.float32)
    probabilities, traces = follow(augment, signs)
    expected = [0.02, 0.04, 0.04, 0.04, 0.04, 0.02, 0.02, 0, 0, 0, 0, 0.02]
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert traces == 1


def test_ada_stays_within_zero_and_one():
    for sign, end in ((1.0, 1.0), (-1.0, 0.0)):
        probabilities, _ = follow(ada(ramp_images=3000, initial=0.5), jnp.full(200, sign))
        assert probabilities[-1] == end
        assert probabilities.min() >= 0
        assert probabilities.max() <= 1


def test_ada_settles_where_the_sign_is_the_target():
    augment = ada(target=0.6, ramp_images=20_000)

    def step(state, key):
        # Overfitting that augmentation takes away: 0.6 at a probability of 0.4.
        sign = 1 - state["probability"] + 0.05 * jax.random.normal(key)
        state = augment.update(state, {"logits/real_sign": sign}, 32)
        return state, (state["probability"], sign)

    keys = jax.random.split(KEY, 2000)
    _, (probabilities, signs) = jax.jit(lambda s: lax.scan(step, s, keys))(augment.init())
    assert probabilities[0] == 0
    assert np.mean(signs[-500:]) == pytest.approx(0.6, abs=0.01)
    np.testing.assert_allclose(probabilities[-500:], 0.4, atol=0.04)


def test_ada_says_what_it_misses():
    augment = ada()
    with pytest.raises(ValueError, match=r"logits/real_sign, which .* it has logits/real"):
        augment.update(augment.init(), {"logits/real": jnp.float32(0)}, 1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ada(initial=2), r"in \[0, 1\], got 2"),
        (lambda: ada(target=1), "the target is 1"),
        (lambda: ada(interval=0), "got 500000 and 0"),
        (lambda: fixed("b", -1), "got -1"),
        (lambda: scheduled("b", 0.5, 2**31), "got 2147483648"),
    ],
)
def test_settings_are_checked(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_the_schedule_is_half_a_cosine_and_never_overflows():
    probabilities, traces = follow(scheduled("b", 0.6, 1000), jnp.zeros(12))
    done = np.minimum(np.arange(1, 13) / 10, 1)
    # base + (1 - d) (final - base) with d = (1 + cos(pi t / T)) / 2.
    np.testing.assert_allclose(probabilities, 0.6 * (1 - (1 + np.cos(np.pi * done)) / 2), atol=1e-6)
    assert traces == 1
    probabilities, _ = follow(scheduled("b", 0.5, 2**31 - 1), jnp.zeros(5), 2**30)
    np.testing.assert_allclose(probabilities, [0.25, 0.5, 0.5, 0.5, 0.5])
    probabilities, _ = follow(scheduled("b", 0.5, 0), jnp.zeros(1))
    assert probabilities[0] == 0.5
    assert scheduled("b", 0.5, 10).metrics(scheduled("b", 0.5, 10).init()) == {
        "augment/probability": 0
    }


def test_a_state_is_what_is_applied(quick_jit):
    images = noise_images(2, 4, 4, 1)
    still = ada("b"), scheduled("b", 1.0, 10), fixed("b", 0.0)
    moving = ada("b", initial=1.0), scheduled("b", 1.0, 0), fixed("b", 1.0)

    @quick_jit
    def everything(images):
        expected = apply_pipe(images, KEY, 1.0, "b")
        return expected, [a.apply(a.init(), images, KEY) for a in (*still, *moving)]

    expected, outs = everything(images)
    for out in outs[:3]:
        np.testing.assert_array_equal(out, images)
    for out in outs[3:]:
        np.testing.assert_allclose(out, expected, atol=1e-6)
    assert np.abs(expected - images).max() > 0.1


# Layouts.


def measure(weight, probability, images):
    """Return augmented images, and the gradient of a loss and a penalty through the pipe."""

    def loss(weight):
        seen, back = jax.vjp(lambda images: apply_pipe(images, KEY, probability, "bgcfnc"), images)
        logits, to_seen = jax.vjp(lambda seen: jnp.sum(jnp.tanh(weight * seen), (1, 2, 3)), seen)
        slopes = back(*to_seen(jnp.ones_like(logits)))[0]
        return jnp.mean(logits) + jnp.mean(slopes**2), seen

    (value, seen), gradient = axes.value_and_grad(loss)(weight)
    return seen, value, gradient


def main():
    mesh = sharding.make_mesh()
    assert mesh.size == DEVICES
    arguments = jnp.float32(1.5), jnp.float32(0.7), noise_images(BATCH, 5, 6, 3)
    expected = jax.jit(measure)(*arguments)
    replicated, split = PartitionSpec(), PartitionSpec(sharding.AXIS)
    specs = {
        "in_specs": (replicated, replicated, split),
        "out_specs": (split, replicated, replicated),
    }

    def under_mesh(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return measure(*arguments)

    shardings = tuple(NamedSharding(mesh, spec) for spec in specs["in_specs"])
    compiled = jax.jit(under_mesh, in_shardings=shardings).lower(*arguments).compile()
    pmapped = jax.pmap(measure, sharding.AXIS, in_axes=(None, None, 0), out_axes=(0, None, None))

    def in_shares(weight, probability, images):
        out = pmapped(weight, probability, images.reshape(DEVICES, -1, *images.shape[1:]))
        return out[0].reshape(images.shape), *out[1:]

    layouts = {
        "jit": lambda *arguments: compiled(*jax.device_put(arguments, shardings)),
        "shard_map": jax.jit(jax.shard_map(measure, mesh=mesh, **specs, check_vma=False)),
        "check_vma": jax.jit(jax.shard_map(measure, mesh=mesh, **specs)),
        "pmap": in_shares,
    }
    result = {"moved": float(jnp.abs(expected[0] - arguments[2]).mean())}
    for name, run in layouts.items():
        ours = jax.block_until_ready(run(*arguments))
        result[name] = [
            float(np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b))
            for a, b in zip(ours, jax.device_get(expected), strict=True)
        ]
    result["collectives"] = [
        [collective.kind, collective.bytes] for collective in cost.collectives(compiled.as_text())
    ]
    print(json.dumps(result))


@pytest.fixture(scope="module")
def measured():
    environment = {
        **os.environ,
        "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.abspath(ganjax.__file__))),
        "NPROC": "64",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 "
        f"--xla_force_host_platform_device_count={DEVICES}",
    }
    process = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=500
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["jit", "shard_map", "check_vma", "pmap"])
def test_layouts_augment_like_one_device(layout, measured):
    assert measured["moved"] > 0.1
    for error in measured[layout]:
        assert error < 2e-6


@pytest.mark.slow
def test_images_stay_on_their_devices(measured):
    assert max((size for _, size in measured["collectives"]), default=0) < 200  # scalars


if __name__ == "__main__":
    main()
