"""Files that are made to do harm: each gets a sentence, soon, and nothing in it is run."""

import gzip
import io
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzz_readers import Evil, pictures, read_configuration, read_picture
from fuzzing import VALUES
from PIL import Image

from ganjax import config, interop
from ganjax.config import Config
from ganjax.data import load, load_text
from ganjax.data.images import ImageRule, decode
from ganjax.data.tokenizers import read_tokenizer
from ganjax.files import parse_json
from ganjax.run import RunDirectory
from ganjax.types import InputError

HERE = Path(__file__).parent


def refused(call, match):
    with pytest.raises(InputError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


def image(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, "png")
    return path


# What is small and unpacks to much.


@pytest.fixture
def low_bounds(monkeypatch):
    """Let a bomb be small enough for a test of every day."""
    monkeypatch.setattr("ganjax.files.FREELY_UNPACKED", 1 << 16)
    monkeypatch.setattr("ganjax.files._PIECE", 1 << 14)


def bomb(kind, folder, size):
    """Write a file of one kind that unpacks to `size` bytes of nothing; return its path."""
    pieces = [b"a" * (1 << 20) if kind == "text" else bytes(1 << 20)] * (size >> 20)
    if kind in ("zip", "npz", "npz, not used"):
        path = folder / f"bomb.{kind[:3]}"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            name = {"zip": "a.png", "npz": "image.npy"}.get(kind, "more.npy")
            if kind == "npz, not used":
                archive.writestr("image.npy", npy((2, 8, 8)))
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(b"" if kind == "zip" else npy((size // 64, 8, 8), filling=0))
                file.writelines(pieces)
        return path
    path = folder / ("bomb.txt.gz" if kind == "text" else "bomb-idx3-ubyte.gz")
    with gzip.open(path, "wb", 1) as file:
        head = b"\0\0\x08\3" + struct.pack(">3I", size // 64, 8, 8)
        file.write(b"" if kind == "text" else head)
        file.writelines(pieces)
    return path


def read_source(path):
    reader = load_text if path.name.endswith(".txt.gz") else load
    reader(str(path), held_out=0)


@pytest.mark.parametrize("kind", ["zip", "npz", "npz, not used", "text", "idx"])
def test_a_bomb(kind, tmp_path, low_bounds):
    path = bomb(kind, tmp_path, 1 << 22)
    refused(
        lambda: read_source(path),
        r"bomb.* unpacks to more than 0 MiB and 20 times its size: .*store it uncompr",
    )


def test_what_unpacks_to_a_few_times_its_size_is_no_bomb(tmp_path, low_bounds):
    noise = np.random.default_rng(0).integers(0, 16, (400, 32, 32), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", image=noise)
    assert load(str(tmp_path / "a.npz"), held_out=0)[0].num_examples == 400


def test_an_idx_file_is_not_unpacked_beyond_what_its_header_says(tmp_path, monkeypatch):
    monkeypatch.setattr("ganjax.files._PIECE", 1 << 14)
    content = b"\0\0\x08\1" + struct.pack(">I", 10) + bytes(1 << 24)
    (tmp_path / "a-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
    refused(
        lambda: load(str(tmp_path / "a-idx3-ubyte.gz")), "holds more bytes of data, expected 10"
    )


def peak_mib(*arguments):
    """Return the memory of a process that reads a file, in MiB, and the sentence it ended with."""
    program = f"""if True:
        import resource, sys
        sys.path.insert(0, {str(HERE)!r})
        from pathlib import Path
        import test_hostile_files as hostile
        from ganjax.types import InputError
        try:
            getattr(hostile, sys.argv[1])(Path(sys.argv[2]))
            print("valid")
        except InputError as error:
            print(error)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    """
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    sentence, peak = process.stdout.splitlines()
    return int(peak), sentence


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["zip", "npz", "npz, not used", "text", "idx"])
def test_a_bomb_of_three_gigabytes_takes_no_memory(kind, tmp_path):
    peak, sentence = peak_mib("read_source", bomb(kind, tmp_path, 3 << 30))
    assert "to more than 256 MiB" in sentence or "claims to unpack to 3072 MiB" in sentence
    assert peak < 1024


def read_small(path):
    load(str(path), held_out=0, image_size=(8, 8))
    load(str(path), held_out=0, image_size=(8, 8), channels=1, resize="pad")


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "P"])
def test_pictures_of_many_pixels_take_their_memory_one_after_another(mode, tmp_path):
    """88 million pixels in a few kilobytes each, in as many threads as there are cores."""
    large = Image.new(mode, (9400, 9400))
    large.save(tmp_path / "0.png")
    for number in range(1, 4):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / "0.png").read_bytes())
    peak, sentence = peak_mib("read_small", tmp_path)
    assert sentence == "valid"
    assert peak < 2048


# What is in the place of a file.


@pytest.mark.parametrize(
    "name", ["a.txt", "a.npz", "a.npy", "a-idx3-ubyte", "a.zip", "a.json", "a.pkl", "config.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_what_is_no_file(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as address:
            address.bind(name)
    calls = {
        ".txt": lambda: load_text(name),
        ".json": lambda: read_tokenizer(path),
        ".pkl": lambda: interop.read(path),
    }
    call = calls.get(path.suffix, lambda: load(name))
    if name == "config.json":
        call = RunDirectory(tmp_path).record
    refused(call, f"{name} (is |cannot be|holds no)")


def test_what_is_no_file_in_a_folder_of_images(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    assert load(str(tmp_path), held_out=0)[0].num_examples == 1


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_read_is_named(what, tmp_path, monkeypatch):
    image(tmp_path / "inside" / "a.png")

    def forbidden(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    if what == "file":
        monkeypatch.setattr("ganjax.data.folder.open", forbidden, raising=False)
    else:
        monkeypatch.setattr("os.scandir", forbidden)
    refused(lambda: load(str(tmp_path)), r"cannot be (opened|read) \(Permission denied\)")


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-this-name/x", "a\0b", ""])
@pytest.mark.parametrize("reader", [load, load_text])
def test_names_that_cannot_be(reader, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: reader(source), "there is no|holds no")


# Links.


def test_links_that_lead_to_each_other_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        image(tmp_path / name / f"{name}.png")
        for link in ("x", "y", "z"):
            (tmp_path / name / link).symlink_to(tmp_path / other)
    # Each folder, and the other one within it three times.
    assert load(str(tmp_path), held_out=0)[0].num_examples == 8


def test_a_link_to_what_is_above_is_not_followed(tmp_path):
    image(tmp_path / "outside.png")
    image(tmp_path / "images" / "a" / "a.png")
    (tmp_path / "images" / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "images" / "everything").symlink_to("/")
    assert load(str(tmp_path / "images"), held_out=0)[0].num_examples == 1


def test_links_that_make_few_folders_many_are_refused(tmp_path):
    for depth in range(30):
        folder = tmp_path / f"{depth}"
        folder.mkdir()
        for link in ("x", "y"):
            (folder / link).symlink_to(tmp_path / f"{depth + 1}")
    image(tmp_path / "30" / "a.png")
    refused(lambda: load(str(tmp_path)), "is linked to more than 100 times")


# Names.


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes only names in UTF-8")
@pytest.mark.parametrize("max_bytes", [0, 1 << 30])
def test_names_of_any_bytes(max_bytes, tmp_path):
    names = ["ü.png", "\u202e.png", "\udcff\udc80.png", "a\nb.png", "\U0001f600.png"]
    for name in names:
        image(tmp_path / "k\udce9" / name)
        image(tmp_path / "m" / name)
    dataset, _ = load(str(tmp_path), held_out=0, max_in_memory_bytes=max_bytes)
    assert dataset.num_examples == 2 * len(names)
    assert dataset.class_names == ("k\udce9", "m")
    (tmp_path / "m" / "a\nb.png").write_bytes(b"broken")
    refused(lambda: load(str(tmp_path)), r"m/a\\nb\.png' cannot be decoded")


def test_the_same_name_twice_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", b"2")
    refused(lambda: load(str(tmp_path / "a.zip")), r"'a\.png' is in it twice")


# Pictures.


def test_a_program_for_a_printer_is_not_run(tmp_path, monkeypatch):
    """Pillow reads EPS with another program, whatever the file is called."""

    def run(*arguments, **options):
        raise AssertionError(f"{arguments} was run")

    monkeypatch.setattr(subprocess, "Popen", run)
    monkeypatch.setattr(subprocess, "check_call", run)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "eps")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    refused(lambda: load(str(tmp_path)), r"a\.png cannot be decoded \(it is no image\)")


@pytest.mark.parametrize("name", pictures())
def test_pictures_that_are_cut_short(name, tmp_path):
    content = pictures()[name]
    for end in range(0, len(content), max(1, len(content) // 8)):
        (tmp_path / name).write_bytes(content[:end])
        try:
            read_picture(tmp_path, random.Random(end))
        except InputError as error:
            sentence = str(error)
        else:
            continue
        assert name in sentence


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1)])
def test_pictures_of_one_pixel_in_breadth(resize, size, tmp_path):
    with image(tmp_path / "a.png", size).open("rb") as file:
        found = decode(file, "a.png", ImageRule((16, 16), 3, resize))
    assert found.shape == (16, 16, 3)


# Arrays.


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez(path, image=array)])
def test_a_pickle_in_an_array_is_not_run(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, np.array([Evil()]))
    refused(lambda: load(str(path)), "cannot be read")
    path.write_bytes(pickle.dumps(Evil()))
    refused(lambda: load(str(path)), "cannot be read")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def npy(shape, kind="|u1", filling=1000):
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + bytes(filling)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1 << 40, 8, 8, 3), "|u1"),
        ((1 << 63, 8, 8, 3), "|u1"),
        ((1 << 32, 1 << 32, 1, 1), "|u1"),
        ((0, 1 << 62, 1 << 62, 3), "|u1"),
        ((-1, 8, 8), "|u1"),
        ((1 << 62,), "|V0"),
        ((1 << 62, 1, 1), "<U0"),
        ((), "|u1"),
        ((1,) * 70, "|u1"),
    ],
)
def test_arrays_that_claim_anything(shape, kind, tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(shape, kind))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("image.npy", npy(shape, kind))
    for name in ("a.npy", "a.npz"):
        for max_bytes in (0, 1 << 30):
            call = lambda: load(str(tmp_path / name), max_in_memory_bytes=max_bytes)  # noqa: B023, E731
            refused(call, name)


@pytest.mark.parametrize("kind", ["<U0", "<U1", "|u1"])
def test_names_of_classes_without_number(kind, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", npy((3, 4, 4)))
        archive.writestr("class_names.npy", npy((1 << 20,), kind) + bytes(1 << 22))
    refused(lambda: load(str(tmp_path / "a.npz")), r"a\.npz")


@pytest.mark.parametrize("lengths", [(1,) * 70, (1,) * 255, (0, 1 << 31, 1 << 31), (1 << 31,) * 4])
def test_counts_of_an_idx_file(lengths, tmp_path):
    head = b"\0\0\x08" + bytes([len(lengths)]) + struct.pack(f">{len(lengths)}I", *lengths)
    (tmp_path / "a-idx3-ubyte").write_bytes(head + b"\1")
    refused(lambda: load(str(tmp_path / "a-idx3-ubyte")), r"a-idx3-ubyte (is no idx|holds)")


# JSON.


def record(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    return RunDirectory(tmp_path).record


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [101, 990, 5000, 100_000])
def test_json_that_nests_without_end(opening, depth, tmp_path):
    refused(record(tmp_path, opening * depth), r"config\.json is broken")
    closing = {"[": "]", "{": "}"}
    whole = opening * depth + "1" + "".join(closing.get(c, "") for c in reversed(opening)) * depth
    refused(lambda: parse_json(whole, "a.json"), r"a\.json is broken: .*(nested|recursion)")


def test_json_with_an_entry_twice(tmp_path):
    call = record(tmp_path, '{"config": {}, "data": {}, "config": {"name": "other"}}')
    refused(call, "broken: the entry 'config' is in it twice")


def leaves(tree, path=()):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


@pytest.mark.parametrize("model", config.MODELS)
def test_a_value_of_any_kind_in_every_field_of_a_configuration(model):
    dice = random.Random(model)
    tree = json.loads(json.dumps(config.to_json(Config(model=config.MODELS[model]()))))
    for path in list(leaves(tree)):
        if model != "gan" and path[0] != "model":
            continue  # the rest is the same
        *parents, last = path
        place = tree
        for key in parents:
            place = place[key]
        right = place[last]
        for value in dice.sample(VALUES, 6):
            place[last] = value
            try:
                found = config.from_json(tree)
            except InputError as error:
                sentence = str(error)
            else:
                # What is taken has the type of its field.
                assert config.from_json(config.to_json(found)) == found
                continue
            assert str(last) in sentence or "type" in sentence
            assert len(sentence) < 2000
        place[last] = right


@pytest.mark.parametrize("data", [[], None, {"shape": "x"}, {"shape": [-1]}, {"num_classes": 0.5}])
def test_data_that_a_run_does_not_write(data, tmp_path):
    call = record(tmp_path, json.dumps({"config": {}, "data": data}))
    refused(call, r"config\.json is not what a run writes there \(")


def test_a_configuration_is_named(tmp_path):
    record(tmp_path, '{"config": {"modle": 1}, "data": {}}')
    refused(lambda: read_configuration(tmp_path, None), tmp_path.name)


# Pickles.


def read(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    return lambda: interop.read(tmp_path / "a.pkl")


def test_a_key_of_tuples_within_tuples(tmp_path):
    """Python's own hash of it overflows the stack and ends the process."""
    deepest = b"}" + b")" + b"\x85" * 100_000 + b"Ns"
    deep = b")\x85\x85"
    for content in (
        deepest,
        b"}(" + deep + b"Nu",
        b"(" + deep + b"Nd",
        b"(" + deep + b"\x91",
        b"\x8f(" + deep + b"\x90",
        b"cbuiltins\nset\n]" + deep + b"a\x85R",
        b"ccollections\nOrderedDict\n](" + deep + b"N\x86e\x85R",
    ):
        refused(read(tmp_path, b"\x80\x04" + content + b"."), r"a\.pkl cannot be read: no sound")


def test_a_list_of_lists_that_are_one_is_not_shown(tmp_path):
    """Written out it would have 2 to the power of 60 elements."""
    doubled = b"]q\x010" + b"](h\x01h\x01eq\x010" * 60
    content = b"\x80\x02" + doubled + b"cnumpy\ndtype\nh\x01\x85R."
    refused(read(tmp_path, content), "of the type list")


@pytest.mark.parametrize(
    "again",
    [
        b"c_codecs\nencode\nh\x01\x85R",
        b"cbuiltins\nset\nh\x02\x85R",
        b"ctraining.x\nX\n)R}h\x03h\x03\x86\x85b(h\x03Nu",
    ],
)
def test_a_value_that_is_copied_again_and_again(again, tmp_path):
    text = b"X" + struct.pack("<I", 1 << 19) + b"a" * (1 << 19) + b"q\x010"
    row = b"](" + b"K\x01" * 100_000 + b"eq\x020U\x01aq\x030"
    refused(read(tmp_path, b"\x80\x02" + text + row + again * 2_000 + b"."), r"a\.pkl")


def test_a_module_in_many_places(tmp_path):
    """Each of twenty levels holds the next twice, and all of them a thousand attributes."""
    items = b"".join(b"U\x04%04dK\x01" % number for number in range(1000))
    module = b"ctraining.networks\nX\n)R}(" + items + b"U\x08_modules}ub"
    for _ in range(20):
        module += b"q\x010ctraining.networks\nX\n)R}(" + items
        module += b"U\x08_modules}(U\x01ah\x01U\x01bh\x01uub"
    refused(read(tmp_path, b"\x80\x02" + module + b"."), "without end")


# Other weights.


def test_a_language_model_of_a_billion_layers(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"wte.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 10**9}))
    refused(lambda: interop.read_gpt2(tmp_path), "has 1000000000 layers, more than there are")


def test_a_tokenizer_that_cannot_take_a_text_apart(tmp_path):
    package = pytest.importorskip("tokenizers")
    words = package.Tokenizer(package.models.WordLevel({"a": 0}, unk_token="none"))
    words.save(str(tmp_path / "a.json"))
    refused(lambda: read_tokenizer(tmp_path / "a.json").encode("b"), "cannot take the text apart")
