"""BigGAN against BigGAN-PyTorch: outputs, statistics and singular vectors, in and out again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_vectors
from reference_vectors import nhwc, relative_error

from ganjax import interop
from ganjax.networks.layers import as_network
from ganjax.types import InputError

REFERENCE = "biggan_cifar32"


@pytest.fixture(scope="module")
def official():
    config, state_dict = reference_vectors.weights(REFERENCE)
    return interop.import_state_dict("biggan", config, state_dict), state_dict


@pytest.fixture(scope="module")
def arrays():
    return reference_vectors.arrays(REFERENCE)


@pytest.fixture(scope="module")
def train_call(official, arrays):
    gan, _ = official
    return gan.generate(arrays["z"], arrays["label"], train=True)


def test_images_in_training_are_the_official_ones(train_call, arrays):
    images, _ = train_call
    assert relative_error(images, nhwc(arrays["image_train_mode"])) < 1e-5


def test_what_a_training_call_stores_is_the_official_one(train_call, official, arrays):
    _, updated = train_call
    stored = updated.to_state_dict(updated)
    prefix = "after_train_call/"
    names = [name for name in arrays if name.startswith(prefix)]
    assert names
    for name in names:
        assert relative_error(stored[name.removeprefix(prefix)], arrays[name]) < 1e-5, name
    _, state_dict = official
    changed = {name for name in state_dict if np.any(stored[name] != state_dict[name])}
    assert {name.rsplit(".", 1)[1] for name in changed} == {
        "u0",
        "sv0",
        "stored_mean",
        "stored_var",
    }


def test_images_after_the_training_call_are_the_official_ones(train_call, arrays):
    _, updated = train_call
    images = updated.generate(arrays["z"], arrays["label"])
    assert relative_error(images, nhwc(arrays["image_eval_mode_after_train_call"])) < 1e-5


def test_logits_are_the_official_ones(official, arrays):
    gan, _ = official
    images, labels = nhwc(arrays["x"]), arrays["label"]
    expected = arrays["logits_eval_mode"][:, 0]
    assert relative_error(gan.discriminate(images, labels), expected) < 1e-5
    logits, updated = gan.discriminate(images, labels, train=True)
    assert relative_error(logits, arrays["logits_train_mode"][:, 0]) < 1e-5
    # Evaluation did one iteration too, and kept nothing of it.
    again, _ = updated.discriminate(images, labels, train=True)
    assert relative_error(again, expected) > 1e-5


def test_the_state_dict_survives_import_and_export(official):
    gan, state_dict = official
    exported = gan.to_state_dict(gan)
    assert set(exported) == set(state_dict)
    for name, array in state_dict.items():
        np.testing.assert_array_equal(exported[name], array, err_msg=name)


OTHERS = {
    "hierarchical": {"hier": True, "shared": True, "shared_dim": 6, "z_dim": 12, "attention": "16"},
    "shared": {"shared": True, "z_dim": 5, "attention": "8_32"},
    "64": {"image_resolution": 64, "shared": False, "z_dim": 5, "ch": 1, "attention": "32"},
}


@pytest.mark.parametrize("form", OTHERS)
def test_every_form_has_a_name_for_each_variable(form):
    config = {"ch": 2, "n_classes": 3, "image_resolution": 32} | OTHERS[form]
    from ganjax.interop import biggan  # the functions that an importer has

    for part, module in zip(("generator", "discriminator"), biggan.networks(config), strict=True):
        names = biggan.names(config, part)
        side = config["image_resolution"]
        inputs = (config["z_dim"],) if part == "generator" else (side, side, 3)
        shapes = jax.eval_shape(
            as_network(module).init,
            jax.random.key(0),
            jax.ShapeDtypeStruct((2, *inputs), jnp.float32),
            jax.ShapeDtypeStruct((2,), jnp.int32),
        )
        leaves = {
            tuple(key.key for key in path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        }
        assert {entry.path for entry in names.values()} == set(leaves)
        for name, entry in names.items():
            ours = np.arange(np.prod(leaves[entry.path].shape)).reshape(leaves[entry.path].shape)
            official = entry.to_official(ours)
            np.testing.assert_array_equal(entry.to_ours(official), ours, err_msg=name)
            if name.endswith("weight"):
                u0 = leaves[names[name.replace("weight", "u0")].path] if "u0" in name else None
                assert u0 is None or u0.shape == (1, official.shape[0])
    if form == "hierarchical":
        expected = {"shared.weight", "blocks.1.1.gamma", "blocks.2.0.bn2.gain.u0"}
        assert expected <= set(biggan.names(config, "generator"))
        gammas = [name for name in biggan.names(config, "discriminator") if "gamma" in name]
        assert len(gammas) == 4  # the official table has every block of 32x32 at 16x16


def test_settings_that_have_no_official_form_are_refused():
    for config, sentence in (
        ({"image_resolution": 40}, "image_resolution has to be a power of two, got 40"),
        ({"hier": True, "shared": False}, "hier goes together with shared"),
    ):
        with pytest.raises(InputError, match=sentence):
            interop.import_state_dict("biggan", config, {"G.linear.weight": np.zeros((1, 1))})
