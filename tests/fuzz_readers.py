"""Every reader of files that may have come from elsewhere, with good files to spoil."""

import functools
import gzip
import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from official_files import Persistent, Tensor, dumps, module_state, row_of_pickles, zip_archive
from PIL import Image

from ganjax import checks, config, evaluation, interop
from ganjax.data import TextForm, load, load_text
from ganjax.data.images import ImageRule, decode, header
from ganjax.data.tokenizers import read_tokenizer
from ganjax.evaluation.classifier import load_weights, save_weights
from ganjax.files import of_file, read_json
from ganjax.interop import export
from ganjax.run import RunDirectory

Files = dict[str, bytes]
SIZES = ((None, None), ((4, 6), 3), ((9, 3), None), (None, 1), ((5, 5), 4))


class Reader(NamedTuple):
    """Functions: () -> the good files of several cases, and (folder, dice), which reads them."""

    seeds: Callable[[], Sequence[Files]]
    call: Callable[[Path, random.Random], None]


def good(function):
    """Make the seeds once."""
    return functools.cache(function)


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@good
def pictures() -> dict[str, bytes]:
    """Return a picture of each kind by file name."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 4), dtype=np.uint8)
    colour = Image.fromarray(pixels[..., :3])
    frames = [colour.rotate(angle) for angle in (0, 90, 180)]
    animated = {"save_all": True, "append_images": frames[1:]}
    several = {"save_all": True, "append_images": [frame.copy() for frame in frames[1:]]}
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "colour.png": _encode(colour, "png"),
        "alpha.png": _encode(Image.fromarray(pixels), "png"),
        "grey_alpha.png": _encode(Image.fromarray(pixels).convert("LA"), "png"),
        "palette.png": _encode(colour.quantize(5), "png", transparency=1),
        "one_bit.png": _encode(colour.convert("1"), "png"),
        "sixteen.png": _encode(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "png"),
        "animated.png": _encode(frames[0], "png", **animated),
        "turned.png": _encode(colour, "png", exif=turned),
        "colour.jpg": _encode(colour, "jpeg"),
        "progressive.jpg": _encode(colour, "jpeg", progressive=True),
        "cmyk.jpg": _encode(colour.convert("CMYK"), "jpeg"),
        "turned.jpg": _encode(colour, "jpeg", exif=turned),
        "several.jpg": _encode(colour, "mpo", **animated),
        "animated.gif": _encode(frames[0], "gif", **animated),
        "animated.webp": _encode(frames[0], "webp", **animated),
        "exact.webp": _encode(Image.fromarray(pixels), "webp", lossless=True),
        "colour.bmp": _encode(colour, "bmp"),
        "palette.bmp": _encode(colour.quantize(20), "bmp"),
        "colour.ppm": _encode(colour, "ppm"),
        "text.ppm": b"P3 2 2 255 " + b"1 2 3 " * 4,
        "lab.tif": _encode(Image.merge("LAB", colour.split()), "tiff"),
        "floats.tif": _encode(Image.fromarray(pixels[..., 0].astype(np.float32)), "tiff"),
        "sixteen.tif": _encode(Image.fromarray(pixels[..., 0].astype(np.uint16)), "tiff"),
        "several.tif": _encode(frames[0].copy(), "tiff", **several),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"{compression}.tif"] = _encode(colour, "tiff", compression=compression)
    return files


def read_picture(folder: Path, dice: random.Random) -> None:
    size, channels = dice.choice(SIZES)
    rule = ImageRule(size, channels, dice.choice(("crop", "stretch", "pad")))
    for path in folder.iterdir():
        with path.open("rb") as file:
            shape = header(file, str(path))
            file.seek(0)
            image = decode(file, str(path), rule)
        assert image.dtype == np.uint8
        assert size is not None or channels is not None or len(image.shape) == len(shape)


def _few_pictures(*names: str) -> Files:
    return {f"{'ab'[i % 2]}/{name}": pictures()[name] for i, name in enumerate(names)}


@good
def folders() -> list[Files]:
    return [
        {f"images/{k}": v for k, v in _few_pictures(*names).items()}
        for names in (
            ("colour.png", "colour.jpg", "colour.bmp"),
            ("alpha.png", "animated.gif", "turned.jpg"),
            ("cmyk.jpg", "sixteen.png", "animated.webp", "several.tif"),
        )
    ]


@good
def zips() -> list[Files]:
    archives = []
    for files in folders():
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        archives.append({"images.zip": content.getvalue()})
    return archives


def _load(source: Path, dice: random.Random) -> None:
    size, channels = dice.choice(SIZES)
    dataset, _ = load(
        str(source),
        held_out=0,
        image_size=size,
        channels=channels,
        resize=dice.choice(("crop", "stretch", "pad")),
        labels=dice.random() < 0.7,
        max_in_memory_bytes=dice.choice((0, 1 << 30)),
    )
    batch = dataset.batch(np.arange(min(dataset.num_examples, 10)))
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape[1:] == dataset.features["image"][0]


def _array(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _arrays(save=np.savez, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


class Evil:
    """What a pickle would run."""

    def __reduce__(self):
        return os.system, ("touch this_was_run",)


@good
def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


@good
def npz_files() -> list[Files]:
    images, labels = _images(), np.arange(6) % 2
    names = np.array(["cat", "dog"])
    return [
        {"a.npz": _arrays(image=images, label=labels, class_names=names)},
        {"a.npz": _arrays(np.savez_compressed, x=images[..., 0], y=labels)},
        {"a.npz": _arrays(pixels=images / 127.5 - 1)},
        {"a.npz": _arrays(image=images, label=np.array([Evil()] * 6))},
    ]


@good
def npy_files() -> list[Files]:
    images, labels = _images(), np.arange(6) % 2
    return [
        {"images.npy": _array(images), "labels.npy": _array(labels)},
        {"images.npy": _array(images / 127.5 - 1)},
        {"images.npy": _array(np.array([Evil()]))},
    ]


def _idx(array: np.ndarray) -> bytes:
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + shape + array.tobytes()


@good
def idx_files() -> list[Files]:
    images, labels = _idx(_images()[..., 0]), _idx(np.arange(6, dtype=np.uint8) % 2)
    packed = gzip.compress(labels)
    return [
        {"t-images-idx3-ubyte": images, "t-labels-idx1-ubyte": labels},
        {"t-images-idx3-ubyte.gz": gzip.compress(images), "t-labels-idx1-ubyte.gz": packed},
    ]


@good
def texts() -> list[Files]:
    text = "Ein Text\nmit Zeilen, ü und \U0001f600.\r\n\n".encode() * 4
    return [
        {"x/a.txt": text},
        {"x/a.txt.gz": gzip.compress(text)},
        {"x/train.txt": text, "x/test.txt": text},
    ]


def read_text(folder: Path, dice: random.Random) -> None:
    kind = dice.choice(("characters", "bytes", "words"))
    options = {
        "tokens": kind,
        "lines": dice.random() < 0.5,
        "length": dice.choice((4, 40)),
        "long_lines": dice.choice(("refuse", "cut", "drop")),
        "vocab_size": None if kind == "bytes" else dice.choice((None, 5)),
    }
    inside = folder / "x"
    source = dice.choice([inside, *inside.iterdir()])
    dataset, _ = load_text(str(source), held_out=0, **options)
    for row in dataset.batch(np.arange(min(3, dataset.num_examples)))["tokens"]:
        dataset.form.decode(row)


@good
def tokenizers() -> list[Files]:
    import tokenizers as package

    from ganjax.data import build_tokenizer

    pairs = build_tokenizer("bpe", ["a text with words in it, and more words"], 270).to_json()
    words = package.Tokenizer(package.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = package.pre_tokenizers.Whitespace()
    pieces = package.Tokenizer(package.models.WordPiece({"a": 0, "##b": 1, "x": 2}, unk_token="x"))
    single = package.Tokenizer(package.models.Unigram([("a", -1.0), ("b", -2.0)], 0))
    contents = [pairs["content"], *(json.loads(x.to_str()) for x in (words, pieces, single))]
    return [{"tokenizer.json": json.dumps(content).encode()} for content in contents]


def read_tokens(folder: Path, dice: random.Random) -> None:
    with of_file(str(folder)):
        tokenizer = read_tokenizer(folder / "tokenizer.json")
        tokens = tokenizer.encode(dice.choice(("a text", "ab ab", "\U0001f600", "")))
        tokenizer.decode(tokens)
        tokenizer.decode(range(min(tokenizer.vocab_size, 300)))


@good
def vocabularies() -> list[Files]:
    from ganjax.data import build_tokenizer

    forms = [
        TextForm(5, 4, tokenizer=build_tokenizer("characters", ["abcde"])),
        TextForm(6, 4, False, 1, 2, 0, build_tokenizer("words", ["a b c"], special=3)),
        TextForm(256, 4, True, tokenizer=build_tokenizer("bytes", [])),
        TextForm(50, 4),
    ]
    return [{"config.json": json.dumps(form.to_json()).encode()} for form in forms]


def read_vocabulary(folder: Path, dice: random.Random) -> None:
    path = folder / "config.json"
    with of_file(str(path)):
        value = read_json(path)
        form = TextForm.from_json(value)
        form.decode(np.arange(min(form.vocab_size, 100)))


@good
def configurations() -> list[Files]:
    found = []
    for kind in config.MODELS.values():
        for network in ("dcgan", "mlp", "stylegan2", "lstm_pair", "gpt"):
            settings = config.Config(model=kind(network=config.NETWORKS[network]()))
            data = {"shape": [4, 4, 3], "num_classes": 2, "class_names": ["a", "b"], "name": "x"}
            record = {"config": config.to_json(settings), "data": data, "versions": {"jax": "1"}}
            found.append({"config.json": json.dumps(record).encode()})
    return found


def read_configuration(folder: Path, dice: random.Random) -> None:
    record = RunDirectory(folder).record()
    with of_file(str(folder)):
        settings = config.from_json(record["config"])
        checks.check(settings)
    assert config.from_json(config.to_json(settings)) == settings


@good
def logs() -> list[Files]:
    lines = [{"step": step, "loss": step / 3, "other": None} for step in range(1, 6)]
    figures = {"frechet_distance": {"name": "frechet_distance", "value": 1.5}}
    return [
        {
            "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode(),
            "evaluation.json": json.dumps([{"step": 5, "figures": figures}] * 2).encode(),
        }
    ]


def read_logs(folder: Path, dice: random.Random) -> None:
    run = RunDirectory(folder)
    for steps, values in run.curves().values():
        assert len(steps) == len(values)
        assert sum(values) is not None
    for entry in run.evaluations():
        assert isinstance(entry["step"], int)
        assert all(isinstance(figure, dict) for figure in entry["figures"].values())


@good
def _weights() -> dict[str, np.ndarray]:
    """Return few tensors with the names of an R3GAN, in its forms."""
    noise = np.random.default_rng(0)
    layers = "MainLayers.0.Layers."
    shapes = {
        f"G.{layers}0.LinearLayer.weight": (4, 6),
        f"G.{layers}1.LinearLayer1.Layer.weight": (8, 4, 1, 1),
        f"G.{layers}1.LinearLayer2.Layer.weight": (8, 2, 3, 3),
        "G.AggregationLayer.Layer.weight": (3, 4, 1, 1),
        "G.EmbeddingLayer.weight": (2, 3),
        "D.ExtractionLayer.Layer.weight": (4, 3, 1, 1),
    }
    return {name: noise.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@good
def pickles() -> list[Files]:
    tensors = {name[2:]: array for name, array in _weights().items() if name[0] == "G"}
    network = Persistent("Generator", module_state(tensors))
    style = {
        "synthesis.b4.const": np.zeros((4, 4, 4), np.float32),
        "synthesis.b4.conv1.weight": np.zeros((4, 4, 3, 3), np.float32),
        "synthesis.b4.conv1.affine.weight": np.zeros((4, 4), np.float32),
        "synthesis.b4.torgb.weight": np.zeros((3, 4, 1, 1), np.float32),
        "mapping.fc0.weight": np.zeros((4, 4), np.float32),
    }
    big = {
        "output_layer.0.gain": np.zeros(4, np.float32),
        "output_layer.2.weight": np.zeros((3, 4, 3, 3), np.float32),
        "blocks.0.0.bn1.gain.weight": np.zeros((4, 5), np.float32),
        "blocks.0.0.conv2.weight": np.zeros((4, 4, 3, 3), np.float32),
        "linear.weight": np.zeros((4, 4), np.float32),
    }
    values = [{"G_ema": network, "D": None}, _weights(), {"G": big}]
    values.append({"G": Persistent("Generator", module_state(style))})
    files = [dumps(value, protocol) for value in values for protocol in (0, 2, 4)]
    files.append(pickle.dumps(Evil()))
    return [{"a.pkl": content} for content in files]


@good
def _saved(save, name) -> list[Files]:
    tensors = {name: Tensor(array) for name, array in _weights().items()}
    parts = {part: {k[2:]: v for k, v in tensors.items() if k[0] == part} for part in "GD"}
    return [{name: save(tensors)}, {name: save(parts)}]


def read_official(folder: Path, dice: random.Random) -> None:
    (path,) = folder.iterdir()
    read = dice.choice((interop.read, interop.read, interop.read_tensors))
    read(path)


@good
def gpt2_folders() -> list[Files]:
    from safetensors.numpy import save

    width, noise = 4, np.random.default_rng(0)
    shapes = {"wte.weight": (7, width), "wpe.weight": (5, width)}
    shapes |= {f"ln_f.{name}": (width,) for name in ("weight", "bias")}
    inside = {"attn.c_attn": (4, 12), "attn.c_proj": (4, 4), "mlp.c_fc": (4, 16)}
    for name, shape in {**inside, "mlp.c_proj": (16, 4)}.items():
        shapes |= {f"h.0.{name}.weight": shape, f"h.0.{name}.bias": shape[1:]}
    for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
        shapes[f"h.0.{name}"] = (width,)
    tensors = {name: noise.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    numbers = {"vocab_size": 7, "n_positions": 5, "n_embd": width, "n_layer": 1, "n_head": 2}
    files = {"config.json": json.dumps({**numbers, "eos_token_id": 6}).encode()}
    return [{**files, "model.safetensors": save(tensors)}]


def read_gpt2(folder: Path, dice: random.Random) -> None:
    interop.read_gpt2(folder)


@good
def exports() -> list[Files]:
    from safetensors.numpy import save

    tensors = {"params.dense.kernel": np.ones((3, 4), np.float32), "params.dense.bias": np.ones(4)}
    settings = {"architecture": "r3gan", "config": {"widths": [4], "z_dim": 3}}
    return [{export.CONFIG: json.dumps(settings).encode(), export.WEIGHTS: save(tensors)}]


def read_export(folder: Path, dice: random.Random) -> None:
    export.load_weights(folder)


@good
def statistics() -> list[Files]:
    sigma = np.eye(4)
    return [{"a.npz": _arrays(mu=np.zeros(4), sigma=sigma)}, {"a.npz": _arrays(image=_images())}]


class _Extractor(NamedTuple):
    hash: str = "0"


def read_statistics(folder: Path, dice: random.Random) -> None:
    evaluation.read_statistics(folder / "a.npz", _Extractor())


@good
def classifiers() -> list[Files]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        save_weights(path, {"params": {"a": np.zeros((2, 2), np.float32)}}, {"name": "x"})
        return [{"a.npz": path.read_bytes()}]


def read_classifier(folder: Path, dice: random.Random) -> None:
    load_weights(folder / "a.npz")


def _of(function) -> Callable[[], list[Files]]:
    return good(lambda: [{name: data} for name, data in function().items()])


READERS: dict[str, Reader] = {
    "picture": Reader(_of(pictures), read_picture),
    "folder": Reader(folders, lambda folder, dice: _load(folder / "images", dice)),
    "zip": Reader(zips, lambda folder, dice: _load(folder / "images.zip", dice)),
    "npz": Reader(npz_files, lambda folder, dice: _load(folder / "a.npz", dice)),
    "npy": Reader(npy_files, lambda folder, dice: _load(folder / "images.npy", dice)),
    "idx": Reader(idx_files, lambda folder, dice: _load(min(folder.glob("*idx3*")), dice)),
    "text": Reader(texts, read_text),
    "tokenizer": Reader(tokenizers, read_tokens),
    "vocabulary": Reader(vocabularies, read_vocabulary),
    "configuration": Reader(configurations, read_configuration),
    "logs": Reader(logs, read_logs),
    "pickle": Reader(pickles, read_official),
    "torch_zip": Reader(lambda: _saved(zip_archive, "a.pth"), read_official),
    "torch_row": Reader(lambda: _saved(row_of_pickles, "a.pkl"), read_official),
    "gpt2": Reader(gpt2_folders, read_gpt2),
    "export": Reader(exports, read_export),
    "statistics": Reader(statistics, read_statistics),
    "classifier": Reader(classifiers, read_classifier),
}
