"""`Dataset`: examples by index, in memory or read on demand."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ganjax.types import InputError

# The permutation that splits off the held-out part: the same in every run and for every seed.
_HELD_OUT_SEED = 20_140_610


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples that are found by their index.

    Images are uint8 (H, W, C) under the key `"image"`; points in the plane are float32 (2,) under
    the same key, so that the algorithms know one name. Labels are int32 scalars.

    A data set can be pickled, so that worker processes can read from it.

    Attributes:
      name: what people call it, such as `"fashion_mnist (built in)"` or a path.
      split: `"train"`, `"held out"`, `"test"`, ...
      features: shape and dtype of each leaf of one example.
      num_classes: 0 where there are no labels.
      class_names: one name a class; may be empty.
      arrays: all examples, (num_examples, ...) each, where they are in memory, else None.
      num_examples: how many examples there are.
      fingerprint: a short hash of the content, the same on every machine. Of streamed files it
        covers names and sizes and the way images are brought to one shape.
      read: `(indices) -> batch` where the examples are not in memory.
    """

    name: str
    split: str
    features: dict[str, tuple[tuple[int, ...], np.dtype]]
    num_classes: int
    class_names: tuple[str, ...]
    arrays: dict[str, np.ndarray] | None
    num_examples: int
    fingerprint: str
    read: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the examples at `indices`, integers of any shape, as arrays (*indices.shape, ...).

        Raises:
          IndexError: if an index is outside [0, num_examples).
          InputError: if a file that is read on demand is broken.
        """
        indices = np.asarray(indices)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_examples:
            raise IndexError(
                f"{self.name} has {self.num_examples} examples, asked for index "
                f"{indices.min()} to {indices.max()}"
            )
        if self.arrays is not None:
            return {name: array[indices] for name, array in self.arrays.items()}
        flat = self.read(indices.reshape(-1))
        return {name: leaf.reshape(indices.shape + leaf.shape[1:]) for name, leaf in flat.items()}

    def subset(self, indices: np.ndarray, split: str) -> "Dataset":
        """Return the data set of the examples at `indices`, (N,), under the name `split`."""
        indices = np.asarray(indices, np.int64)
        arrays = None if self.arrays is None else self.batch(indices)
        read = None if self.read is None else _Subset(self.read, indices)
        return dataclasses.replace(
            self,
            split=split,
            arrays=arrays,
            read=read,
            num_examples=len(indices),
            fingerprint=fingerprint(self.fingerprint, indices),
        )

    def hold_out(self, count: int) -> tuple["Dataset", "Dataset | None"]:
        """Split `count` examples off, by a permutation that is the same in every run.

        Returns:
          The data set without them, and they; None in place of an empty part.

        Raises:
          InputError: if nothing would be left to train on.
        """
        if count == 0:
            return self, None
        if not 0 < count < self.num_examples:
            most = self.num_examples - 1
            raise InputError(
                f"{self.name} has {self.num_examples} example{'s' if most else ''} and "
                f"data.held_out is {count}: "
                + (f"choose a number from 0 to {most}." if most else "set it to 0.")
            )
        generator = np.random.Generator(np.random.Philox(_HELD_OUT_SEED))
        order = generator.permutation(self.num_examples)
        # Sorted, so that a streamed set is read in the order of its files where possible.
        held_out, rest = np.sort(order[:count]), np.sort(order[count:])
        return self.subset(rest, self.split), self.subset(held_out, "held out")


@dataclasses.dataclass(frozen=True)
class _Subset:
    read: Callable[[np.ndarray], dict[str, np.ndarray]]
    indices: np.ndarray

    def __call__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self.read(self.indices[indices])


def in_memory(
    name: str,
    split: str,
    arrays: Mapping[str, np.ndarray],
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
) -> Dataset:
    """Return the data set of these arrays.

    Args:
      name: what people call it.
      split: which part of it this is.
      arrays: `"image"` (N, H, W, C) uint8 or (N, 2) float32; with labels also `"label"` (N,),
        integers.
      num_classes: one more than the largest label where it is not given.
      class_names: one name a class, or nothing.

    Raises:
      InputError: if the arrays do not belong together or a label is out of range.

    >>> images = np.zeros((4, 8, 8, 3), np.uint8)
    >>> dataset = in_memory("black", "train", {"image": images, "label": np.array([0, 1, 1, 0])})
    >>> dataset.num_examples, dataset.num_classes, dataset.features["image"][0]
    (4, 2, (8, 8, 3))
    """
    arrays = dict(arrays)
    num_examples = len(arrays["image"])
    if num_examples == 0:
        raise InputError(f"{name} holds no examples: point data.source to one that does.")
    if "label" in arrays:
        arrays["label"], num_classes = check_labels(
            name, arrays["label"], num_examples, num_classes or len(class_names)
        )
    return Dataset(
        name=name,
        split=split,
        features={key: (array.shape[1:], array.dtype) for key, array in arrays.items()},
        num_classes=num_classes if "label" in arrays else 0,
        class_names=tuple(class_names) if "label" in arrays else (),
        arrays=arrays,
        num_examples=num_examples,
        fingerprint=fingerprint(*(part for key in sorted(arrays) for part in (key, arrays[key]))),
    )


def check_labels(
    name: str, labels: np.ndarray, num_examples: int, num_classes: int | None = None
) -> tuple[np.ndarray, int]:
    """Return labels as int32 (N,) and the number of classes.

    Args:
      name: of the data set, for the message.
      labels: integers, (N,) or (N, 1).
      num_examples: N.
      num_classes: one more than the largest label where it is None or 0.

    Raises:
      InputError: if there are too many or too few, they are no integers, or one is out of range.
    """
    labels = np.asarray(labels)
    if labels.shape == (num_examples, 1):
        labels = labels[:, 0]
    if labels.shape != (num_examples,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"the labels of {name} are {labels.dtype} of shape {labels.shape}, expected "
            f"{num_examples} integers, one an image; set model.conditional to False to train "
            "without them."
        )
    smallest, largest = int(labels.min()), int(labels.max())
    # A label beyond the number of examples is an identifier or a mistake, not a class.
    limit = num_classes or num_examples
    if smallest < 0 or largest >= limit:
        wrong = int(np.argmax((labels < 0) | (labels >= limit)))
        raise InputError(
            f"label {labels[wrong]} of example {wrong} in {name} is out of range, expected 0 to "
            f"{limit - 1}; correct it, or set model.conditional to False to train without labels."
        )
    return labels.astype(np.int32), num_classes or largest + 1


def fingerprint(*parts: str | np.ndarray) -> str:
    """Return 16 hexadecimal digits that depend on every part: strings and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        else:
            # A file's name may hold bytes that are no UTF-8, which Python keeps as surrogates.
            digest.update(f"{len(part)}:{part}".encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]
