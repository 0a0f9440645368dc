"""An exported generator makes the images that it made before."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_vectors

from ganjax import interop
from ganjax.networks.dcgan import Generator
from ganjax.types import InputError

NAMES = {
    "r3gan": "r3gan_cond16",
    "stylegan2": "stylegan2_cond32",
    "biggan": "biggan_cifar32",
}


@pytest.fixture(autouse=True)
def _packages():
    pytest.importorskip("safetensors", reason="a package of the extra interop")
    pytest.importorskip("flatbuffers", reason="a package of the extra interop")


@pytest.fixture(scope="module")
def r3gan():
    imported = interop.import_state_dict("r3gan", *reference_vectors.weights(NAMES["r3gan"]))
    vectors = reference_vectors.arrays(NAMES["r3gan"])
    return imported, vectors["z"], vectors["label"].argmax(1)


@pytest.mark.parametrize(
    "architecture", [pytest.param(n, marks=[] if n == "r3gan" else pytest.mark.slow) for n in NAMES]
)
def test_safetensors_and_back(architecture, tmp_path):
    weights = reference_vectors.weights(NAMES[architecture])
    imported = interop.import_state_dict(architecture, *weights)
    interop.save_imported(tmp_path, imported)
    again = interop.load_imported(tmp_path)
    assert again.config == imported.config
    vectors = reference_vectors.arrays(NAMES[architecture])
    options = {"noise": "const"} if architecture == "stylegan2" else {}
    images = [gan.generate(vectors["z"], vectors["label"], **options) for gan in (imported, again)]
    np.testing.assert_array_equal(*images)
    with pytest.raises(ValueError, match="no weights of a discriminator"):
        again.discriminate(images[0], vectors["label"])


def test_what_other_frameworks_find_in_the_file(r3gan, tmp_path):
    import safetensors.numpy

    imported, *_ = r3gan
    interop.save_weights(tmp_path, imported.generator_variables, {"name": "r3gan"})
    tensors = safetensors.numpy.load_file(tmp_path / "generator.safetensors")
    kernel = imported.generator_variables["params"]["stage0_block0"]["conv1"]
    np.testing.assert_array_equal(tensors["params.stage0_block0.conv1"], kernel)
    config, _ = interop.load_weights(tmp_path)
    assert config == {"name": "r3gan"}
    with pytest.raises(InputError, match="no official one"):
        interop.load_imported(tmp_path)


def test_exports_that_are_broken_or_missing(r3gan, tmp_path):
    imported, *_ = r3gan
    with pytest.raises(InputError, match="holds no exported generator"):
        interop.load_weights(tmp_path)
    interop.save_imported(tmp_path, imported)
    weights = tmp_path / "generator.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="holds no sound generator"):
        interop.load_imported(tmp_path)
    fewer = {"params": {**imported.generator_variables["params"]}}
    del fewer["params"]["to_image"]
    interop.save_imported(tmp_path, imported.replace(generator_variables=fewer))
    with pytest.raises(InputError, match=r"not the variables of a r3gan.*params\.to_image"):
        interop.load_imported(tmp_path)


def test_the_sentence_where_the_package_is_missing(r3gan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(InputError, match=r"pip install 'ganjax\[interop\]'"):
        interop.save_imported(tmp_path, r3gan[0])


@pytest.mark.slow
def test_a_program_for_any_batch_and_every_platform(r3gan, tmp_path):
    imported, z, labels = r3gan
    path = tmp_path / "generator.stablehlo"
    interop.save_imported_program(path, imported)
    generate = interop.load_program(path)
    expected = imported.generate(z, labels)
    np.testing.assert_allclose(generate(z, labels), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(generate(z[:1], labels[:1]), expected[:1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="takes latents and labels"):
        generate(z)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["stylegan2", "biggan"])
def test_programs_of_the_other_architectures(architecture, tmp_path):
    weights = reference_vectors.weights(NAMES[architecture])
    imported = interop.import_state_dict(architecture, *weights)
    path = tmp_path / "generator.stablehlo"
    interop.save_imported_program(path, imported)
    vectors = reference_vectors.arrays(NAMES[architecture])
    z, labels = vectors["z"], vectors["label"]
    labels = labels.argmax(1) if labels.ndim == 2 else labels
    options = {"noise": "const"} if architecture == "stylegan2" else {}
    expected = imported.generate(z, labels, **options)
    ours = interop.load_program(path)(z, labels)
    assert reference_vectors.relative_error(ours, expected) < 1e-5


@pytest.mark.slow
def test_a_program_of_transposed_convolutions(tmp_path):
    """Their form on a CPU is chosen by sizes, of which the batch is not known here."""
    generator = Generator((8, 8, 3), width=4, batch_norm=False)
    z = jnp.ones((2, 8))
    variables = jax.jit(generator.init)(jax.random.key(0), z)
    path = tmp_path / "generator.stablehlo"
    interop.save_program(path, lambda z, _: generator.apply(variables, z), latent_dim=8)
    images = interop.load_program(path)(z)
    np.testing.assert_allclose(images, generator.apply(variables, z), atol=1e-6)


@pytest.mark.slow
def test_a_program_runs_without_this_library(r3gan, tmp_path):
    imported, z, labels = r3gan
    path = tmp_path / "generator.stablehlo"
    interop.save_imported_program(path, imported, batch_size=2, platforms=("cpu",))
    np.savez(tmp_path / "inputs.npz", z=z[:2], labels=labels[:2].astype(np.int32))
    program = """if True:
        import sys
        sys.modules["ganjax"] = None
        import numpy as np
        from jax import export
        inputs = np.load("inputs.npz")
        exported = export.deserialize(bytearray(open("generator.stablehlo", "rb").read()))
        np.save("images.npy", exported.call(inputs["z"], inputs["labels"]))
    """
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=300)
    expected = imported.generate(z, labels)[:2]
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_a_program(tmp_path):
    with pytest.raises(ValueError, match="pass batch_size"):
        interop.save_program(
            tmp_path / "p", lambda z, _: z[: z.shape[0] // 2 if z.shape[0] > 3 else 1], latent_dim=4
        )
    broken = tmp_path / "broken"
    broken.write_bytes(b"no program" * 10)
    with pytest.raises(InputError, match="holds no exported program"):
        interop.load_program(broken)
    with pytest.raises(InputError, match="No such file"):
        interop.load_program(tmp_path / "none")
