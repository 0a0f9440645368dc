import gzip
import io
import json
import logging
import pickle
import socket
import tarfile

import numpy as np
import pytest

from ganjax.data import BatchStream, batch_indices, load, load_text, prepare
from ganjax.data.tfds import import_tfds
from ganjax.types import InputError

_NUM_EXAMPLES = {"train": 30, "test": 10}


def idx(array):
    content = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(content + array.tobytes())


def write_mnist(folder, generator):
    images, labels = {}, {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        count = _NUM_EXAMPLES[split]
        images[split] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels[split] = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images[split]))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels[split]))
    return {split: images[split][..., None] for split in images}, labels


def write_cifar(folder, generator, num_classes):
    many = num_classes == 100
    count = _NUM_EXAMPLES["train"]
    train = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    test = generator.integers(0, 256, (_NUM_EXAMPLES["test"], 32, 32, 3), dtype=np.uint8)
    images = {"train": train, "test": test}
    labels = {
        split: (np.arange(len(x)) % num_classes).astype(np.uint8) for split, x in images.items()
    }

    def records(split):
        planes = images[split].transpose(0, 3, 1, 2).reshape(len(images[split]), -1)
        columns = [labels[split][:, None]]
        if many:
            columns.insert(0, labels[split][:, None] // 5)
        return np.concatenate([*columns, planes], axis=1)

    names = "\n".join(f"class{i:02d}" for i in range(num_classes)) + "\n\n"
    if many:
        prefix = "cifar-100-binary/"
        files = {"train.bin": records("train"), "test.bin": records("test")}
        texts = {
            "fine_label_names.txt": names,
            "coarse_label_names.txt": "\n".join(f"coarse{i}" for i in range(20)),
        }
    else:
        prefix = "cifar-10-batches-bin/"
        files = {f"data_batch_{i + 1}.bin": records("train")[6 * i : 6 * i + 6] for i in range(5)}
        files["test_batch.bin"] = records("test")
        texts = {"batches.meta.txt": names}
    with tarfile.open(folder / f"cifar-{num_classes}-binary.tar.gz", "w:gz") as archive:
        contents = {name: array.tobytes() for name, array in files.items()}
        contents |= {name: text.encode() for name, text in texts.items()}
        for name, content in contents.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return images, labels


def write_raw_files(name, folder, generator, monkeypatch):
    """Write small files of a data set's kind, and register their checksums in place of the real."""
    folder.mkdir()
    if "mnist" in name:
        contents = write_mnist(folder, generator)
    else:
        contents = write_cifar(folder, generator, 10 if name == "cifar10" else 100)
    tfds = import_tfds()
    stock = tfds.builder_cls(name)
    compute = tfds.core.download.checksums.compute_url_info
    infos = {url: compute(folder / info.filename) for url, info in stock.url_infos.items()}
    monkeypatch.setattr(stock, "url_infos", infos)
    # TFDS adds what it reads to one dict for the whole process.
    monkeypatch.setattr(tfds.core.download.checksums, "get_all_url_infos", dict)
    return contents


@pytest.fixture
def small_mnist(tmp_path, generator, monkeypatch):
    write_raw_files("mnist", tmp_path / "raw", generator, monkeypatch)
    prepare("mnist", data_dir=str(tmp_path / "tfds"), downloads=str(tmp_path / "raw"))
    return str(tmp_path / "tfds")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)


@pytest.fixture
def write_texts(tmp_path):
    """Return a function that prepares records as a set "notes", which only its files define."""

    def write(*records, features=("text",)):
        tfds = import_tfds()
        # By ClassLabel a record has more than texts.
        kinds = {"label": lambda: tfds.features.ClassLabel(num_classes=4)}

        class Notes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")
            pkg_dir_path = tfds.core.Path(tmp_path)

            def _info(self):
                known = {name: kinds.get(name, tfds.features.Text)() for name in features}
                return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(known))

            def _split_generators(self, dl_manager):
                return {"train": enumerate(records), "test": enumerate(records[:1])}

            def _generate_examples(self):
                raise AssertionError("the records are there")

        Notes.name = "notes"
        builder = Notes(data_dir=str(tmp_path / "tfds"), file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
        return str(tmp_path / "tfds")

    return write


def in_order(images):
    """Sort images: TFDS shuffles what it writes."""
    return np.array(sorted(images, key=lambda image: image.tobytes()))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100"])
def test_prepare_writes_what_load_and_stock_tfds_read(
    name, tmp_path, generator, monkeypatch, capsys
):
    images, labels = write_raw_files(name, tmp_path / "raw", generator, monkeypatch)
    lines = []
    path = prepare(
        name,
        data_dir=str(tmp_path / "tfds"),
        downloads=str(tmp_path / "raw"),
        progress=lines.append,
    )
    assert path.startswith(str(tmp_path / "tfds" / name))
    assert lines
    assert capsys.readouterr().out == ""
    for split in ("train", "test"):
        dataset, _ = load(f"tfds:{name}", split=split, data_dir=str(tmp_path / "tfds"), held_out=0)
        np.testing.assert_array_equal(in_order(dataset.arrays["image"]), in_order(images[split]))
        label_of = {
            image.tobytes(): label
            for image, label in zip(images[split], labels[split], strict=True)
        }
        found = [label_of[image.tobytes()] for image in dataset.arrays["image"]]
        assert dataset.arrays["label"].tolist() == found
        assert (
            len(dataset.class_names) == dataset.num_classes == (100 if name == "cifar100" else 10)
        )
        stock = import_tfds().data_source(
            name, split=split, data_dir=str(tmp_path / "tfds"), download=False
        )
        assert len(stock) == _NUM_EXAMPLES[split]
        assert stock.dataset_info.module_name.startswith("tensorflow_datasets.")
        for i in (0, 7):
            np.testing.assert_array_equal(stock[i]["image"], dataset.arrays["image"][i])
            assert stock[i]["label"] == dataset.arrays["label"][i]
    if "cifar" in name:
        assert dataset.class_names[3] == "class03"


def test_a_streamed_set_equals_the_one_in_memory(small_mnist):
    options = {"data_dir": small_mnist, "held_out": 4, "image_size": (16, 16), "channels": 3}
    kept, _ = load("tfds:mnist", **options)
    streamed, held_out = load("tfds:mnist", max_in_memory_bytes=0, **options)
    assert streamed.arrays is None
    assert streamed.features == kept.features
    assert held_out.num_examples == 4
    for dataset in (streamed, pickle.loads(pickle.dumps(streamed))):
        for key, leaf in dataset.batch(np.arange(26)).items():
            np.testing.assert_array_equal(leaf, kept.arrays[key])
    with BatchStream(streamed, seed=0, batch_size=8, num_workers=2) as stream:
        found = stream.take(0, 5)
    indices = batch_indices(26, seed=0, first_batch=0, num_batches=5, batch_size=8)
    np.testing.assert_array_equal(found["image"], kept.batch(indices)["image"])


def test_parts_of_splits_and_wrong_ones(small_mnist):
    part, _ = load("tfds:mnist", split="train[:50%]", data_dir=small_mnist, held_out=0)
    assert part.num_examples == 15
    with pytest.raises(InputError, match=r"cannot give the split 'tran' .*'train', 'test'"):
        load("tfds:mnist", split="tran", data_dir=small_mnist)


def test_what_is_prepared_is_left_as_it_is(small_mnist, no_network):
    assert prepare("mnist", data_dir=small_mnist).startswith(small_mnist)


def test_another_file_format_is_named(small_mnist, tmp_path):
    (info,) = (tmp_path / "tfds").rglob("dataset_info.json")
    contents = json.loads(info.read_text())
    assert contents["fileFormat"] == "array_record"
    info.write_text(json.dumps(contents | {"fileFormat": "tfrecord"}))
    for function in (load, lambda name, data_dir: prepare(name[5:], data_dir=data_dir)):
        with pytest.raises(InputError, match=r"mnist/.* is prepared as tfrecord, which needs"):
            function("tfds:mnist", data_dir=small_mnist)


def test_a_damaged_download_is_refused(tmp_path, generator, monkeypatch):
    write_raw_files("kmnist", tmp_path / "raw", generator, monkeypatch)
    (tmp_path / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(10, np.uint8)))
    with pytest.raises(InputError, match="a raw file of kmnist is damaged or not the original"):
        prepare("kmnist", data_dir=str(tmp_path / "tfds"), downloads=str(tmp_path / "raw"))
    with pytest.raises(InputError, match="kmnist is not prepared in"):
        load("tfds:kmnist", data_dir=str(tmp_path / "tfds"))


def test_no_network_is_one_sentence_with_what_to_fetch(tmp_path, no_network):
    with pytest.raises(
        InputError,
        match=r"the raw files of cifar10 cannot be downloaded .*cifar-10-binary\.tar\.gz",
    ):
        prepare("cifar10", data_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_is_not_prepared_says_how(tmp_path):
    with pytest.raises(
        InputError, match=r"mnist is not prepared in .*: run `ganjax data prepare mnist`"
    ):
        load("tfds:mnist", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashon_mnist", r"no data set 'fashon_mnist' \(did you mean 'fashion_mnist'\?\)"),
        ("cifar-10", r"cifar-10"),
        ("../../etc", "cannot open"),
        ("emnist/nope", "BuilderConfig nope not found"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(tmp_path, name, message):
    for function in (lambda: load(f"tfds:{name}"), lambda: prepare(name, data_dir=str(tmp_path))):
        with pytest.raises(InputError, match=message):
            function()


def test_other_sets_need_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"preparing celeb_a needs TensorFlow: pip install"):
        prepare("celeb_a", data_dir=str(tmp_path))


def test_a_missing_folder_of_downloads_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*raw"):
        prepare("mnist", data_dir=str(tmp_path), downloads=str(tmp_path / "raw"))


@pytest.mark.parametrize("features", [("text", "title", "label"), ("sentence", "label")])
def test_texts(write_texts, features):
    texts = ["a first one", "naïve ☕", "two\nlines", "the last"]
    records = [{features[0]: text, "title": "not this", "label": 2} for text in texts]
    records = [{name: record[name] for name in features} for record in records]
    data_dir = write_texts(*records, features=features)
    options = {"data_dir": data_dir, "length": 12, "lines": True, "held_out": 0}
    dataset, _ = load_text("tfds:notes", **options)
    found = [dataset.form.decode(row) for row in dataset.arrays["tokens"]]
    assert sorted(found) == sorted("\n".join(texts).split("\n"))
    assert dataset.name == "tfds:notes"
    test, _ = load_text("tfds:notes", split="test", **options)
    assert (test.num_examples, test.split) == (1, "test")
    with pytest.raises(InputError, match=r"cannot give the split 'val' .*'train', 'test'"):
        load_text("tfds:notes", split="val", **options)


def test_texts_make_one_stream(write_texts):
    data_dir = write_texts({"text": "one"}, {"text": "one"})
    dataset, _ = load_text("tfds:notes", data_dir=data_dir, length=7, held_out=0)
    assert dataset.form.decode(dataset.arrays["tokens"][0]) == "one\none\n"


def test_texts_of_a_chosen_feature_and_their_classes(write_texts):
    records = [{"title": f"t{i}", "body": f"body {i}\nmore", "label": i % 3} for i in range(6)]
    data_dir = write_texts(*records, features=("title", "body", "label"))
    options = {"data_dir": data_dir, "length": 12, "lines": True, "held_out": 0, "labels": True}
    dataset, _ = load_text("tfds:notes", feature="body", **options)
    assert dataset.num_classes == len(dataset.class_names) >= 3
    batch = dataset.batch(np.arange(12))
    found = [dataset.form.decode(row) for row in batch["tokens"]]
    assert sorted(zip(found, batch["label"].tolist(), strict=True)) == sorted(
        (line, i % 3) for i in range(6) for line in (f"body {i}", "more")
    )
    titles, _ = load_text("tfds:notes", feature="title", **options)
    assert titles.num_examples == 6
    with pytest.raises(InputError, match=r"body, title, and no text 'label': set data\.text"):
        load_text("tfds:notes", feature="label", **options)
    with pytest.raises(InputError, match="is for tfds:NAME, and tiny_shakespeare is another"):
        load_text("tiny_shakespeare", feature="text")


def test_texts_without_classes(write_texts):
    data_dir = write_texts({"text": "one"}, features=("text",))
    with pytest.raises(InputError, match="features text, expected one class label"):
        load_text("tfds:notes", data_dir=data_dir, lines=True, labels=True)


@pytest.mark.parametrize(
    ("features", "record", "message"),
    [
        (("one", "two"), {"one": "a", "two": "b"}, "one, two: set data.text.feature to one"),
        (("label",), {"label": 1}, "features label, expected one of text"),
        (("text",), {"text": b"caf\xe9"}, "holds a text that is not UTF-8"),
        (("text",), {"text": " "}, "tfds:notes holds no text"),
    ],
)
def test_other_texts_are_refused(write_texts, features, record, message):
    data_dir = write_texts(record, features=features)
    with pytest.raises(InputError, match=message):
        load_text("tfds:notes", data_dir=data_dir)


def test_texts_that_are_not_prepared_say_how(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("absl"), "propagate", True)
    with pytest.raises(InputError, match="run `ganjax data prepare tiny_shakespeare`"):
        load_text("tfds:tiny_shakespeare", data_dir=str(tmp_path))
    assert not caplog.records


@pytest.mark.slow
def test_the_real_fashion_mnist(tmp_path, real_data):
    prepare("fashion_mnist", data_dir=str(tmp_path), downloads=str(real_data / "fashion_mnist"))
    test, _ = load("tfds:fashion_mnist", split="test", data_dir=str(tmp_path), held_out=0)
    builtin, _ = load("fashion_mnist", held_out=0)
    np.testing.assert_array_equal(in_order(test.arrays["image"]), in_order(builtin.arrays["image"]))
    assert test.class_names == builtin.class_names
    train, _ = load("tfds:fashion_mnist", data_dir=str(tmp_path), max_in_memory_bytes=0)
    assert train.num_examples == 59_000
