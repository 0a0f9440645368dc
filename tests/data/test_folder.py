import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ganjax.data import BatchStream, batch_indices, load
from ganjax.types import InputError


def paint(path, value=0, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


@pytest.fixture
def classes(tmp_path):
    root = tmp_path / "photos"
    for i in range(6):
        paint(root / ("cats" if i < 4 else "dogs") / f"{i}.png", 10 * i)
    (root / "cats" / "notes.txt").write_text("not an image")
    (root / "cats" / ".hidden.png").write_text("not an image")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._0.png").write_text("not an image")
    return root


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_class_folders_become_labels(tmp_path, classes, kind):
    source = classes if kind == "folder" else zipped(classes, tmp_path / "photos.zip")
    dataset, _ = load(str(source), held_out=0)
    assert dataset.class_names == ("cats", "dogs")
    assert dataset.arrays["label"].tolist() == [0, 0, 0, 0, 1, 1]
    assert dataset.arrays["image"][:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert dataset.features["image"] == ((8, 8, 3), np.uint8)
    without, _ = load(str(source), held_out=0, labels=False)
    assert set(without.arrays) == {"image"}
    assert without.num_classes == 0


def test_images_without_folders_have_no_labels(tmp_path):
    for i in range(3):
        paint(tmp_path / "one" / "inside" / f"{i}.png", i)
    dataset, _ = load(str(tmp_path), held_out=0)
    assert set(dataset.arrays) == {"image"}


def test_images_beside_class_folders_are_refused(classes):
    paint(classes / "loose.png")
    with pytest.raises(InputError, match=r"class folders \(cats, dogs, \.\.\.\) and images beside"):
        load(str(classes))
    assert load(str(classes), held_out=0, labels=False)[0].num_examples == 7


def test_folders_of_splits(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for i in range(count):
            paint(tmp_path / split / ("a", "b")[i % 2] / f"{i}.png", i)
    assert load(str(tmp_path), held_out=0)[0].num_examples == 4
    test, _ = load(str(tmp_path), held_out=0, split="test")
    assert test.num_examples == 2
    assert test.split == "test"
    assert test.class_names == ("a", "b")
    with pytest.raises(InputError, match=r"no split 'val'\: choose data\.split from test, train"):
        load(str(tmp_path), split="val")


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: zipfile.ZipFile(p, "w").close()])
def test_an_empty_folder_or_zip_is_refused(tmp_path, make):
    path = tmp_path / "nothing.zip"
    make(path)
    with pytest.raises(InputError, match=r"nothing\.zip holds no images"):
        load(str(path))


@pytest.mark.parametrize("options", [{}, {"image_size": (8, 8), "channels": 3}])
@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("damage", [b"", b"no image", "half"])
def test_a_broken_image_among_good_ones_is_named(tmp_path, classes, kind, damage, options):
    path = classes / "cats" / "2.png"
    path.write_bytes(path.read_bytes()[:45] if damage == "half" else damage)
    source = classes if kind == "folder" else zipped(classes, tmp_path / "photos.zip")
    with pytest.raises(InputError, match=r"cats/2\.png.* cannot be decoded"):
        load(str(source), held_out=0, **options)


def test_a_damaged_zip_entry_is_named(tmp_path, classes):
    path = zipped(classes, tmp_path / "photos.zip")
    content = bytearray(path.read_bytes())
    place = content.index(b"IDAT")  # in the first image
    content[place + 6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cats/0\.png.* cannot be decoded"):
        load(str(path), held_out=0)


def test_a_broken_image_of_a_streamed_set_is_named_when_it_is_read(classes):
    (classes / "cats" / "2.png").write_bytes(b"no image")
    dataset, _ = load(
        str(classes), held_out=0, image_size=(8, 8), channels=3, max_in_memory_bytes=0
    )
    with (
        BatchStream(dataset, seed=0, batch_size=6) as stream,
        pytest.raises(InputError, match=r"cats/2\.png cannot be decoded"),
    ):
        stream.take(0, 1)


def test_mixed_sizes_need_a_size(classes):
    paint(classes / "dogs" / "9.png", 90, size=(20, 10))
    with pytest.raises(
        InputError, match=r"0\.png is 8x8 .* and .*9\.png is 10x20: set data\.image_size"
    ):
        load(str(classes))
    dataset, _ = load(str(classes), held_out=0, image_size=(6, 6))
    assert dataset.features["image"][0] == (6, 6, 3)


def test_most_images_decide_on_the_channels(classes):
    paint(classes / "dogs" / "grey.png", 90, mode="L")
    assert load(str(classes), held_out=0)[0].features["image"][0] == (8, 8, 3)
    assert load(str(classes), held_out=0, channels=1)[0].features["image"][0] == (8, 8, 1)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_streamed_set_equals_the_one_in_memory(tmp_path, classes, kind):
    source = classes if kind == "folder" else zipped(classes, tmp_path / "photos.zip")
    kept, _ = load(str(source), held_out=2)
    streamed, held_out = load(str(source), held_out=2, max_in_memory_bytes=0)
    assert streamed.arrays is None
    assert held_out.num_examples == 2
    assert streamed.features == kept.features
    assert streamed.class_names == kept.class_names
    for dataset in (streamed, pickle.loads(pickle.dumps(streamed))):
        for key, leaf in dataset.batch(np.arange(4)).items():
            np.testing.assert_array_equal(leaf, kept.arrays[key])
            assert leaf.dtype == kept.arrays[key].dtype


def test_the_fingerprint_of_a_streamed_set_does_not_depend_on_where_it_is(tmp_path, classes):
    first, _ = load(str(classes), held_out=0, max_in_memory_bytes=0)
    classes.rename(tmp_path / "elsewhere")
    second, _ = load(str(tmp_path / "elsewhere"), held_out=0, max_in_memory_bytes=0)
    paint(tmp_path / "elsewhere" / "cats" / "7.png")
    third, _ = load(str(tmp_path / "elsewhere"), held_out=0, max_in_memory_bytes=0)
    assert first.fingerprint == second.fingerprint != third.fingerprint


def test_links_in_a_circle_end(classes):
    (classes / "cats" / "up").symlink_to(classes)
    assert load(str(classes), held_out=0)[0].num_examples == 6


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", "\\\\host\\a.png"]
)
def test_a_zip_that_leads_out_of_itself_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(InputError, match=r"a\.zip is refused, its entry '.*a\.png' leads out"):
        load(str(tmp_path / "a.zip"))


def test_a_zip_with_a_link_is_refused(tmp_path):
    entry = zipfile.ZipInfo("a.png")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(InputError, match=r"'a\.png' leads out"):
        load(str(tmp_path / "a.zip"))


def test_a_zip_with_a_huge_entry_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # the unpacked size in the central directory
    content[place : place + 4] = (0x7FFFFFFF).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="claims to unpack to 2047 MiB"):
        load(str(tmp_path / "a.zip"))


@pytest.mark.slow
def test_photos_of_mixed_sizes(tmp_path, real_data):
    with tarfile.open(real_data / "clothing64" / "clothing64-1809.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    dataset, held_out = load(str(tmp_path), image_size=(32, 32), held_out=95)
    assert (dataset.num_examples, held_out.num_examples) == (1500, 95)
    assert load(str(tmp_path), image_size=(32, 32), split="test", held_out=0)[0].num_examples == 214
    assert dataset.features["image"] == ((32, 32, 3), np.uint8)
    assert dataset.class_names[0] == "dress"
    assert dataset.arrays["image"].std() > 20
    streamed, _ = load(str(tmp_path), image_size=(32, 32), held_out=95, max_in_memory_bytes=0)
    with BatchStream(streamed, seed=1, batch_size=16, num_workers=2) as stream:
        found = stream.take(3, 4)
    indices = batch_indices(1500, seed=1, first_batch=3, num_batches=4, batch_size=16)
    for key, leaf in dataset.batch(indices).items():
        np.testing.assert_array_equal(found[key], leaf)
