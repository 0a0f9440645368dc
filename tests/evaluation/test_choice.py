import hashlib

import numpy as np
import official_files
import pytest
import reference_vectors

from ganjax.evaluation import choose_extractor, weights
from ganjax.types import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    """A file as PyTorch writes it, with other weights than the published ones."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    _, tensors = reference_vectors.weights("inception_v3_fid")
    parts = {name: official_files.Tensor(array) for name, array in tensors.items()}
    path.write_bytes(official_files.zip_archive(parts))
    return path


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("auto", (28, 28, 1), "fashion-mnist-classifier"),
        ("auto", (32, 32, 3), "cifar10-classifier"),
        ("auto", (28, 28, 3), "pixels-8x8"),
        ("auto", (4, 64, 3), "pixels-4x8"),
        ("pixels", (28, 28, 1), "pixels-8x8"),
        ("stacked-fashion-mnist", (28, 28, 3), "stacked-fashion-mnist-classifier"),
    ],
)
def test_by_name_and_shape(name, shape, expected):
    assert choose_extractor(name, shape).name == expected


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cifar10", r"judges images of the shape \(32, 32, 3\), these have \(8, 8, 3\)"),
        ("resnet", "there is no extractor 'resnet': choose from auto, fashion-mnist"),
        ("inception-v3", r"not on this machine: run `ganjax weights inception-v3`, .* 96 MB from"),
        ("nothing.pth", r"nothing\.pth cannot be read"),
        ("nothing.py:f", r"there is no file nothing\.py"),
    ],
)
def test_what_is_not_there_is_one_sentence(name, sentence):
    with pytest.raises(InputError, match=sentence):
        choose_extractor(name, (8, 8, 3))


def test_a_function_of_the_users(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import jax.numpy as jnp\n"
        "def mean(images): return images.astype(jnp.float32).mean((1, 2))\n"
        "def both(images): return {'features': mean(images), 'logits': mean(images)}\n"
        "def wrong(images): return images\n"
        "def broken(images): return nothing\n"
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    extractor = choose_extractor(f"{path}:mean", (8, 8, 3))
    assert extractor.name == "mean of mine.py"
    assert extractor.metrics == ("frechet_distance",)
    np.testing.assert_allclose(extractor(images)["features"], images.mean((1, 2)), rtol=1e-6)
    both = choose_extractor(f"{path}:both", (8, 8, 3))
    assert both.metrics == ("frechet_distance", "classifier_score")
    assert both.hash != extractor.hash
    with pytest.raises(InputError, match=r"has to return features \(B, D\)"):
        choose_extractor(f"{path}:wrong", (8, 8, 3))
    with pytest.raises(InputError, match=r"cannot be run on images .*: NameError: name 'nothing'"):
        choose_extractor(f"{path}:broken", (8, 8, 3))
    with pytest.raises(InputError, match=r"mine\.py has no function absent"):
        choose_extractor(f"{path}:absent", (8, 8, 3))
    path.write_text("1 / 0")
    with pytest.raises(InputError, match="cannot be run: ZeroDivisionError"):
        choose_extractor(f"{path}:mean", (8, 8, 3))


def test_a_function_for_the_host(tmp_path):
    path = tmp_path / "host.py"
    path.write_text(
        "import numpy as np\ndef mean(images): return np.asarray(images, np.float64).mean((1, 2))\n"
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    extractor = choose_extractor(f"{path}:mean", (8, 8, 3))
    assert not extractor.traceable
    np.testing.assert_allclose(extractor(images)["features"], images.mean((1, 2)), rtol=1e-6)
    floats = images / np.float32(127.5) - 1
    np.testing.assert_array_equal(extractor(floats)["features"], extractor(images)["features"])
    with pytest.raises(InputError, match="is not a JAX function"):
        extractor.network(images)


def test_weights_that_a_function_reads_are_part_of_its_hash(tmp_path):
    path, weights_file = tmp_path / "mine.py", tmp_path / "w.npy"
    path.write_text(
        "import jax.numpy as jnp, numpy as np\n"
        f"w = jnp.asarray(np.load({str(weights_file)!r}))\n"
        "def features(images): return images.reshape(len(images), -1) @ w\n"
    )
    hashes = set()
    for scale in (1.0, 2.0, 1.0):
        np.save(weights_file, np.full((192, 2), scale, np.float32))
        hashes.add(choose_extractor(f"{path}:features", (8, 8, 3)).hash)
    assert len(hashes) == 2


def test_other_weights_are_not_called_fid(pth):
    extractor = choose_extractor(str(pth), (32, 32, 3))
    assert extractor.name == "inception-v3-tf1, weights of mine.pth"
    assert extractor.published == {}


@pytest.mark.slow
def test_published_weights_are_kept_and_found(pth, monkeypatch):
    content = pth.read_bytes()
    source = weights.INCEPTION._replace(sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(weights, "INCEPTION", source)
    monkeypatch.setitem(weights.SOURCES, source.name, source)
    path = weights.install("inception-v3", pth)
    assert path.is_relative_to(weights.cache_directory("weights"))
    extractor = choose_extractor("inception-v3", (32, 32, 3))
    assert extractor.name == "inception-v3-tf1"
    assert extractor.published["frechet_distance"] == "FID"
    assert extractor.hash == choose_extractor(str(pth), (32, 32, 3)).hash
    damaged = bytearray(path.read_bytes())
    damaged[5_000_000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="run `ganjax weights inception-v3` again"):
        choose_extractor("inception-v3", (32, 32, 3))


def test_files_that_were_not_published_are_not_kept(pth):
    with pytest.raises(InputError, match=r"is not the published file of inception-v3: its sha256"):
        weights.install("inception-v3", pth)
    with pytest.raises(InputError, match="there is no file"):
        weights.install("inception-v3", pth.with_name("absent.pth"))
    with pytest.raises(InputError, match="there are no weights 'vgg'"):
        weights.install("vgg")


def test_without_a_network_there_is_a_sentence(monkeypatch):
    said = []
    source = weights.INCEPTION._replace(address="http://127.0.0.1:9/pt_inception.pth")
    monkeypatch.setitem(weights.SOURCES, source.name, source)
    with pytest.raises(InputError, match=r"cannot be fetched .*--file pt_inception\.pth` here"):
        weights.install("inception-v3", progress=said.append)
    assert "fetching 96 MB from http://127.0.0.1:9" in said[0]
    assert "Apache-2.0" in said[0]
