"""`load`: from the name of a source to a training part and a held-out part."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ganjax.data import arrays, folder, points, tfds
from ganjax.data.dataset import Dataset, in_memory
from ganjax.data.images import ImageRule, fit_arrays
from ganjax.data.tfds_prepare import WITHOUT_TENSORFLOW
from ganjax.types import InputError

_BUILTIN = Path(__file__).parent / "builtin"
_FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def fashion_mnist(rule: ImageRule, *, labels: bool, seed: int) -> Dataset:
    """Return the 10,000 test images of Fashion-MNIST, 28x28x1, which come with the package.

    References:
      Xiao et al. 2017, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
      Algorithms.
    """
    del seed
    name = "fashion_mnist (built in)"
    images = arrays.read_idx(_BUILTIN / "t10k-images-idx3-ubyte.gz")[..., None]
    contents = {"image": fit_arrays(images, name, rule)}
    if labels:
        contents["label"] = arrays.read_idx(_BUILTIN / "t10k-labels-idx1-ubyte.gz")
    return in_memory(name, "train", contents, class_names=_FASHION_MNIST_CLASSES)


def stacked_fashion_mnist(rule: ImageRule, *, labels: bool, seed: int) -> Dataset:
    """Return 50,000 images (28, 28, 3) whose channels are three of Fashion-MNIST, at random.

    Its 1,000 combinations of classes are modes that can be counted (`stacked_modes`). The label is
    100 a + 10 b + c of the classes of the channels.

    References:
      Metz et al., Unrolled Generative Adversarial Networks, 2017 (arXiv 1611.02163).
    """
    if rule.size not in (None, (28, 28)) or rule.channels not in (None, 3):
        raise InputError(
            "stacked_fashion_mnist has 28x28 images with three channels: leave out "
            "data.image_size and data.channels."
        )
    single = fashion_mnist(ImageRule(), labels=True, seed=seed).arrays
    rows = np.random.default_rng(seed).integers(0, len(single["image"]), (50_000, 3))
    contents = {"image": np.concatenate([single["image"][r] for r in rows.T], axis=-1)}
    if labels:
        contents["label"] = single["label"][rows] @ np.array([100, 10, 1])
    return in_memory("stacked_fashion_mnist (built in)", "train", contents, num_classes=1000)


def _points(build: Callable[..., Dataset]) -> Callable[..., Dataset]:
    def loader(rule: ImageRule, *, labels: bool, seed: int) -> Dataset:
        if rule != ImageRule():
            raise InputError(
                f"{build.__name__} holds points in the plane: leave out data.image_size, "
                "data.channels and data.resize."
            )
        return build(labels=labels, seed=seed)

    return loader


# What needs no file: name -> (rule, *, labels, seed) -> Dataset.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "fashion_mnist": fashion_mnist,
    "stacked_fashion_mnist": stacked_fashion_mnist,
    "ring": _points(points.ring),
    "grid": _points(points.grid),
}


def load(
    source: str,
    *,
    held_out: int = 1000,
    split: str = "train",
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str = "crop",
    labels: bool = True,
    data_dir: str | None = None,
    max_in_memory_bytes: int = 1 << 30,
    seed: int = 0,
) -> tuple[Dataset, Dataset | None]:
    """Load a data set, and split a held-out part off.

    Images become uint8 (H, W, C). Where their size differs from `image_size` they are resized with
    an antialiased Lanczos filter: "crop" scales an image until it just covers the target and cuts
    the middle out, "stretch" scales both sides independently, "pad" scales it until it just fits
    and adds black around it. The EXIF orientation is applied first; of 16 bits a channel the upper
    8 are kept; transparent images are laid on white unless there are 4 channels.

    Args:
      source: one of
        "fashion_mnist" (10,000 images, in the package), "stacked_fashion_mnist" (three of them as
        the channels of one image), "ring", "grid" (points in the plane);
        "tfds:NAME" or "tfds:NAME/CONFIG", prepared as array_record (see `prepare`);
        a folder or .zip of images, whose class subfolders become labels; an .npz file (arrays
        `image` and `label`); an .npy file; an idx file (train-images-idx3-ubyte[.gz]), with its
        labels beside it.
      held_out: how many examples to keep from the training, chosen by a permutation that depends
        on nothing but the number of examples; also of sets that have a test split of their own.
      split: which split, where a set has several; of a folder, one of its folders train, test, ...
      image_size: (height, width); None where all images have one size.
      channels: 1 (grey), 3 (RGB) or 4 (RGBA); None keeps what most images have.
      resize: "crop", "stretch" or "pad".
      labels: False leaves them out.
      data_dir: where tensorflow-datasets keeps its data.
      max_in_memory_bytes: images that take more, decoded, are decoded batch by batch.
      seed: of the points of "ring" and "grid".

    Returns:
      The training part and the held-out part, None where `held_out` is 0.

    Raises:
      InputError: if the source is not there, empty, broken, or not what it should be.

    >>> train, held_out = load("fashion_mnist")
    >>> train.num_examples, held_out.num_examples, train.features["image"][0]
    (9000, 1000, (28, 28, 1))
    """
    size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
    rule = ImageRule(size, channels, resize)
    if source in DATASETS:
        _only_split(source, split)
        dataset = DATASETS[source](rule, labels=labels, seed=seed)
    elif source.startswith("tfds:"):
        dataset = tfds.from_tfds(
            source.removeprefix("tfds:"),
            rule,
            split=split,
            labels=labels,
            data_dir=data_dir,
            max_bytes=max_in_memory_bytes,
        )
    else:
        path = _existing_path(source)
        dataset = _from_path(path, rule, split, labels, max_in_memory_bytes)
    return dataset.hold_out(held_out)


def _from_path(path: Path, rule: ImageRule, split: str, labels: bool, max_bytes: int) -> Dataset:
    if path.is_dir() or path.suffix.lower() == ".zip":
        return folder.images_in(path, rule, split=split, labels=labels, max_bytes=max_bytes)
    _only_split(str(path), split)
    if path.suffix.lower() == ".npz":
        return arrays.npz(path, rule, split=split, labels=labels)
    if path.suffix.lower() == ".npy":
        return arrays.npy(path, rule, split=split, labels=labels, max_bytes=max_bytes)
    if "idx3" in path.name:
        return arrays.idx(path, rule, split=split, labels=labels)
    raise InputError(
        f"{path} is no kind of file that is known, expected a folder, .zip, .npz, .npy or an idx3 "
        "file."
    )


def _existing_path(source: str) -> Path:
    # Not pathlib's, which raises where a name is too long or a home directory is not known.
    path = Path(os.path.expanduser(source))
    if os.path.exists(path):
        return path
    if os.sep in source or path.suffix:
        raise InputError(f"there is no file or folder {path} (seen from {Path.cwd()}).")
    # Who writes "cifar10" means the set of tensorflow-datasets.
    known = {name: f"tfds:{name}" for name in WITHOUT_TENSORFLOW} | {
        name: name for name in DATASETS
    }
    near = tfds.nearest(source, list(known))
    hint = f" (did you mean {known[near]!r}?)" if near else ""
    raise InputError(
        f"there is no data set and no folder {source[:200]!r}{hint}; built in are "
        f"{', '.join(DATASETS)}; others are tfds:NAME or the path of a folder or file."
    )


def _only_split(source: str, split: str) -> None:
    if split != "train":
        raise InputError(f"{source} has no split {split!r}: leave data.split out.")
