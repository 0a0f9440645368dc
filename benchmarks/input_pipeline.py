"""Does reading keep up with the training step?

images/s that a stream of batches delivers (`BatchStream`, which `data.memory="stream"` uses), in
threads and in two worker processes, against what the compiled train step of a DCGAN (or, for
points, of the fully connected networks) consumes on this machine: a ratio of 1 or more means that
the step is never starved. And against a peer that reads the same: for arrays NumPy indexing with
a permutation, which is the ceiling; for a folder `torch.utils.data.DataLoader`, where PyTorch is
installed. Files are made in a temporary directory from the built-in images.

    python benchmarks/input_pipeline.py --cases fashion_mnist,folder_png
"""

import concurrent.futures
import contextlib
import functools
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import numpy as np
from PIL import Image, ImageOps

from ganjax import data, gan, latents
from ganjax.data import BatchStream, Dataset
from ganjax.networks import dcgan, mlp

NUM_FILES = 2000
LATENTS = 64


class Case(NamedTuple):
    """What is read.

    Attributes:
      make: `(folder) -> Dataset`, writing its files there.
      batch_size: examples of a batch.
      num_batches: batches that one `take` asks for, as one dispatch of the loop does.
      num_workers: processes that read.
    """

    make: Callable[[Path], Dataset]
    batch_size: int
    num_batches: int
    num_workers: int = 0


def points(folder: Path) -> Dataset:
    return data.load("ring")[0]


def garments(folder: Path) -> Dataset:
    return data.load("fashion_mnist")[0]


def picture_folder(folder: Path, suffix: str, side: int) -> Dataset:
    """Return garments as colour pictures in files, which are decoded to 64x64 on demand."""
    images = data.load("fashion_mnist", channels=3, image_size=(side, side))[0].arrays["image"]
    for index, image in enumerate(images[:NUM_FILES]):
        Image.fromarray(image).save(folder / f"{index:05d}.{suffix}")
    return data.load(
        str(folder), image_size=(64, 64), channels=3, held_out=0, max_in_memory_bytes=0
    )[0]


def records(folder: Path) -> Dataset:
    """Return garments as tensorflow-datasets keeps them: PNG in array_record files."""
    import tensorflow_datasets as tfds

    images = garments(folder).arrays["image"]

    class Garments(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "garments"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(28, 28, 1))}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, image in enumerate(images):
                file = io.BytesIO()
                Image.fromarray(image[..., 0]).save(file, "png")
                yield index, {"image": file.getvalue()}

    tfds.display_progress_bar(False)
    with contextlib.redirect_stdout(sys.stderr):
        Garments(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return data.load("tfds:garments", data_dir=str(folder), held_out=0, max_in_memory_bytes=0)[0]


png = functools.partial(picture_folder, suffix="png", side=64)
jpeg = functools.partial(picture_folder, suffix="jpg", side=128)
CASES = {
    "ring": Case(points, 256, 500),
    "fashion_mnist": Case(garments, 32, 50),
    "folder_png": Case(png, 32, 20),
    "folder_png_2_workers": Case(png, 32, 20, 2),
    "folder_jpeg": Case(jpeg, 32, 20),
    "folder_jpeg_2_workers": Case(jpeg, 32, 20, 2),
    "array_record": Case(records, 32, 20),
    "array_record_2_workers": Case(records, 32, 20, 2),
}


def main() -> None:
    args = common.arguments(__doc__, CASES)
    results = common.Results("input_pipeline", args.out)
    for name in args.cases:
        case = CASES[name]
        needed = ("tensorflow_datasets", "array_record") if case.make is records else ()
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name} is left out: no {' and '.join(missing)} here", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            dataset = case.make(Path(folder))
            with BatchStream(
                dataset, seed=0, batch_size=case.batch_size, num_workers=case.num_workers
            ) as stream:
                turns = {"stream": stream_turn(stream, case), "step": step_turn(dataset, case)}
                peer = None
                if dataset.arrays is not None:
                    peer, turns["peer"] = "NumPy indexing", index_turn(dataset, case)
                elif case.make is records:
                    pass
                elif importlib.util.find_spec("torch") is None:
                    print(f"{name} has no row against DataLoader: no torch here", file=sys.stderr)
                else:
                    peer = f"DataLoader, {case.num_workers} workers"
                    turns["peer"] = loader_turn(Path(folder), case)
                rates = common.in_turns(turns, quick=args.quick)
        results.add(name, rates["stream"], rates["step"], peer="what the train step consumes")
        if peer is not None:
            results.add(name, rates["stream"], rates["peer"], peer=peer)


def stream_turn(stream: BatchStream, case: Case) -> Callable[[], float]:
    position = 0

    def turn():
        nonlocal position
        stream.take(position, case.num_batches)
        position += case.num_batches
        # A turn pays for what it leaves read ahead, having found as much.
        concurrent.futures.wait(stream._pending)
        return case.num_batches * case.batch_size

    return turn


def step_turn(dataset: Dataset, case: Case) -> Callable[[], float]:
    """Return a turn of the compiled train step on one resident batch."""
    shape = dataset.features["image"][0]
    if len(shape) == 3:
        networks = dcgan.Generator(shape), dcgan.Discriminator()
    else:
        networks = mlp.Generator(shape), mlp.Discriminator()
    algorithm = gan(*networks, latents=latents.normal(LATENTS), share_fakes=True)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    train_step = jax.jit(algorithm.train_step, donate_argnums=0)
    batch = {"image": jax.device_put(dataset.batch(range(case.batch_size))["image"])}

    def turn():
        nonlocal state
        for _ in range(5):
            state, metrics = train_step(state, batch)
        jax.block_until_ready((state, metrics))
        return 5 * case.batch_size

    return turn


def index_turn(dataset: Dataset, case: Case) -> Callable[[], float]:
    """Return a turn of indexing with a permutation, drawn once: the least that reading does."""
    order = np.random.default_rng(0).permutation(dataset.num_examples)
    order = order[: len(order) // case.batch_size * case.batch_size].reshape(-1, case.batch_size)

    def turn():
        for i in range(case.num_batches):
            for array in dataset.arrays.values():
                array[order[i % len(order)]]
        return case.num_batches * case.batch_size

    return turn


class Pictures:
    """A data set in PyTorch's sense, which brings files to the same shape."""

    def __init__(self, folder: Path):
        self._paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        with Image.open(self._paths[index]) as image:
            image = image.convert("RGB")
            if image.size != (64, 64):
                image = ImageOps.fit(image, (64, 64), Image.Resampling.LANCZOS)
            return np.array(image)


def loader_turn(folder: Path, case: Case) -> Callable[[], float]:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Pictures(folder),
        case.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=case.num_workers,
        persistent_workers=case.num_workers > 0,
        multiprocessing_context="spawn" if case.num_workers else None,
    )

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()

    def turn():
        for _ in range(case.num_batches):
            next(batches)
        return case.num_batches * case.batch_size

    return turn


if __name__ == "__main__":
    main()
