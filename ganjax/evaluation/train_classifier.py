"""Train the classifiers whose weights are shipped.

Run `python -m ganjax.evaluation.train_classifier SET --data DIR --out FILE`. For SET fashion_mnist,
DIR holds the four archives `train-images-idx3-ubyte.gz` and so on, or a folder `fashion_mnist` with
them; for cifar10, folders `train` and `test` of images in a folder a class.
"""

import argparse
import gzip
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ganjax.evaluation.classifier import (
    Classifier,
    ColorClassifier,
    in_eight_bits,
    load_weights,
    save_weights,
)
from ganjax.types import InputError

_MAGIC = {1: 2049, 3: 2051}  # idx headers of uint8 vectors and of uint8 stacks of images


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Return the uint8 array of a gzipped idx file: labels (N,) or images (N, 28, 28).

    Raises:
      InputError: the file is missing, damaged or no idx file of bytes.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise InputError(f"{os.fspath(path)} cannot be read as a gzip archive: {error}.") from error
    rank = content[3] if len(content) > 3 else 0
    if rank not in _MAGIC or int.from_bytes(content[:4], "big") != _MAGIC[rank]:
        raise InputError(f"{os.fspath(path)} is no idx file of labels or images.")
    shape = np.frombuffer(content, ">u4", count=rank, offset=4).astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != shape.prod():
        raise InputError(f"{os.fspath(path)} holds {values.size} bytes for the shape {shape}.")
    return values.reshape(shape)


def read_split(directory: str | os.PathLike, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 28, 28, 1) and labels (N,), both uint8, of the split train or t10k."""
    directory = pathlib.Path(directory)
    if (directory / "fashion_mnist").is_dir():
        directory = directory / "fashion_mnist"
    images = read_idx(directory / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(directory / f"{split}-labels-idx1-ubyte.gz")
    return images[..., None], labels


def augment(
    images: np.ndarray, random: np.random.Generator, reach: int = 1, border: str = "constant"
) -> np.ndarray:
    """Flip half of the images (B, H, W, C) and move each by up to `reach` pixels.

    What comes in at the border is black ("constant") or repeats the outermost pixel ("edge").
    """
    size = images.shape[1]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=border)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    rows, columns = random.integers(0, 2 * reach + 1, (2, len(images)))
    moved = windows[np.arange(len(images)), rows, columns].transpose(0, 2, 3, 1)
    flip = random.random(len(images)) < 0.5
    return np.where(flip[:, None, None, None], moved[:, :, ::-1], moved)


def accuracy(apply: Callable[[np.ndarray], Any], images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose largest logit is that of their label."""
    predictions = [
        np.argmax(apply(images[start : start + 1000]), axis=-1)
        for start in range(0, len(images), 1000)
    ]
    return float(np.mean(np.concatenate(predictions) == labels))


def train(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int = 12,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    label_smoothing: float = 0.0,
    seed: int = 0,
    say: Callable[[str], None] = print,
    network: Any = None,
    reach: int = 1,
    border: str = "constant",
) -> dict[str, Any]:
    """Return `{"params": ..., "batch_stats": ...}` fitted to uint8 images and their labels.

    A Python loop over compiled steps: inside `lax.scan` the gradients of the convolutions would be
    thirty times slower on a CPU.
    """
    import optax

    network = network or Classifier()
    steps_per_epoch = len(images) // batch_size
    optimizer = optax.adamw(
        optax.cosine_onecycle_schedule(epochs * steps_per_epoch, learning_rate, pct_start=0.2),
        weight_decay=1e-2,
    )
    variables = network.init(jax.random.key(seed), images[:1])
    opt_state = optimizer.init(variables["params"])

    def loss(params, batch_stats, batch_images, batch_labels):
        outputs, updated = network.apply(
            {"params": params, "batch_stats": batch_stats},
            batch_images,
            train=True,
            mutable=["batch_stats"],
        )
        logits = outputs["logits"]
        targets = jax.nn.one_hot(batch_labels, logits.shape[-1])
        targets = optax.smooth_labels(targets, label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), updated["batch_stats"]

    @jax.jit
    def step(variables, opt_state, batch_images, batch_labels):
        (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(
            variables["params"], variables["batch_stats"], batch_images, batch_labels
        )
        updates, opt_state = optimizer.update(gradients, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": batch_stats}, opt_state, value

    random = np.random.default_rng(seed)
    start = time.perf_counter()
    for epoch in range(epochs):
        losses = []
        order = random.permutation(len(images))[: steps_per_epoch * batch_size]
        for rows in order.reshape(steps_per_epoch, batch_size):
            batch = augment(images[rows], random, reach, border), labels[rows].astype(np.int32)
            variables, opt_state, value = step(variables, opt_state, *batch)
            losses.append(value)
        seconds = time.perf_counter() - start
        mean = float(jnp.stack(losses).mean())
        say(f"epoch {epoch + 1}/{epochs}: loss {mean:.4f}, {seconds:.0f} s")
    return variables


class Task(NamedTuple):
    """What one classifier is trained on, and how."""

    data: str
    network: Any
    read: Callable[[str, str], tuple[np.ndarray, np.ndarray]]
    splits: tuple[str, str]
    epochs: int
    reach: int
    border: str
    label_smoothing: float
    rounded: Callable[[Any], Any]


def _read_folder(directory: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    from ganjax import data

    examples, _ = data.load(directory, split=split, held_out=0)
    return examples.arrays["image"], examples.arrays["label"].astype(np.uint8)


TASKS = {
    "fashion_mnist": Task(
        "Fashion-MNIST, 60,000 training images",
        Classifier(),
        read_split,
        ("train", "t10k"),
        epochs=12,
        reach=1,
        border="constant",
        label_smoothing=0.0,
        rounded=lambda variables: jax.tree.map(lambda x: np.asarray(x, np.float16), variables),
    ),
    "cifar10": Task(
        "CIFAR-10, 40,000 training images stored as JPEG",
        ColorClassifier(),
        _read_folder,
        ("train", "test"),
        epochs=20,
        reach=3,
        border="edge",
        label_smoothing=0.1,
        rounded=in_eight_bits,
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Train, store the weights and report their accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=TASKS, help="what to train on")
    parser.add_argument("--data", default=os.environ.get("GANJAX_DATA"), help="where it is")
    parser.add_argument("--out", required=True, help="the .npz file to write")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("say where the data is: --data DIR, or set GANJAX_DATA")
    task = TASKS[options.set]
    epochs = options.epochs or task.epochs
    try:
        examples, test_examples = (task.read(options.data, split) for split in task.splits)
    except InputError as error:
        parser.error(str(error))
    variables = train(
        *examples,
        epochs=epochs,
        seed=options.seed,
        network=task.network,
        reach=task.reach,
        border=task.border,
        label_smoothing=task.label_smoothing,
    )
    finish(variables, options.out, options.set, test_examples, epochs, options.seed)


def finish(
    variables: Any,
    out: str,
    name: str,
    test_examples: tuple[np.ndarray, np.ndarray],
    epochs: int,
    seed: int,
) -> None:
    """Round the weights, measure them as they will be read, and write them."""
    task = TASKS[name]
    shipped = task.rounded(variables)
    about = {
        "command": f"python -m ganjax.evaluation.train_classifier {name} --data DIR --out FILE"
        f" --epochs {epochs} --seed {seed}",
        "data": task.data,
        "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
    }
    save_weights(out, shipped, about)
    read, _ = load_weights(out)
    logits = jax.jit(lambda images: task.network.apply(read, images)["logits"])
    reached = accuracy(logits, *test_examples)
    save_weights(out, shipped, {**about, "test_accuracy": reached})
    print(f"test accuracy {reached:.4f}, {os.path.getsize(out) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
