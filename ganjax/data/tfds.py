"""tensorflow-datasets without TensorFlow: reading what is prepared as array_record.

`ganjax.data.prepare` writes such data sets.
"""

import concurrent.futures
import dataclasses
import difflib
import io
import logging
import os
import warnings
from types import ModuleType
from typing import Any

import numpy as np

from ganjax.data.dataset import Dataset, check_labels, fingerprint, in_memory
from ganjax.data.images import ImageRule, decode
from ganjax.types import InputError


def from_tfds(
    name: str,
    rule: ImageRule,
    *,
    split: str,
    labels: bool,
    data_dir: str | None,
    max_bytes: int,
) -> Dataset:
    """Read a split of a data set that TFDS has prepared as array_record.

    The images are those under "image", or the only image feature; the labels those under "label",
    or the only class label. Where the decoded images take more than `max_bytes`, they are decoded
    batch by batch.

    Args:
      name: `NAME` or `NAME/CONFIG`, with a version as `NAME:1.0.0` if need be.
      rule: size and channels of the images.
      split: as TFDS writes it, such as "train" or "train[:80%]".
      labels: whether to read them.
      data_dir: where TFDS keeps its data; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
      max_bytes: of decoded images to keep in memory.

    Raises:
      InputError: if it is unknown, not prepared, prepared as something else, or holds no images.
    """
    builder = _prepared(name, data_dir)
    title = f"tfds:{name}"
    image_key, label_key = _feature_keys(title, builder.info.features)
    height, width, channels = builder.info.features[image_key].shape
    rule = dataclasses.replace(rule, channels=rule.channels or channels or 3)
    size = rule.size or (height, width)
    if None in size:
        raise InputError(f"the images of {title} have several sizes: set data.image_size.")
    read = _Records(name, data_dir, split, rule, image_key, label_key if labels else None)
    num_examples = len(read.source())
    class_label = builder.info.features[label_key] if labels and label_key else None
    num_classes = class_label.num_classes if class_label else 0
    class_names = tuple(class_label.names) if class_label else ()
    if num_examples * size[0] * size[1] * rule.channels <= max_bytes:
        arrays = read.everything()
        return in_memory(title, split, arrays, num_classes=num_classes, class_names=class_names)
    features = {key: (leaf.shape[1:], leaf.dtype) for key, leaf in read(np.arange(1)).items()}
    return Dataset(
        name=title,
        split=split,
        features=features,
        num_classes=num_classes,
        class_names=class_names,
        arrays=None,
        num_examples=num_examples,
        fingerprint=fingerprint(
            builder.info.full_name, split, str(num_examples), str(rule), *sorted(features)
        ),
        read=dataclasses.replace(read, num_classes=num_classes),
    )


def texts(
    name: str,
    *,
    split: str,
    data_dir: str | None,
    feature: str | None = None,
    labels: bool = False,
) -> tuple[list[str], np.ndarray | None, tuple[str, ...]]:
    """Read the texts of a split that TFDS has prepared as array_record.

    Args:
      name: as in `from_tfds`.
      split: as in `from_tfds`.
      data_dir: as in `from_tfds`.
      feature: which text; by default the one called "text", or the only one.
      labels: whether to read those under "label", or of the only class label, too.

    Returns:
      The texts, their labels (N,) or None, and the names of the classes.

    Raises:
      InputError: as for `from_tfds`.
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    tfds = import_tfds()
    known = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    if not known:
        raise InputError(
            f"tfds:{name} has the features {', '.join(sorted(features))}, expected one of text: "
            "choose another data set."
        )
    usual = "text" if "text" in known else known[0] if len(known) == 1 else None
    key = feature or usual
    if key not in known:
        there = "" if feature is None else f", and no text {feature!r}"
        raise InputError(
            f"tfds:{name} has the texts {', '.join(sorted(known))}{there}: set data.text.feature "
            "to one of them."
        )
    label_key = _label_key(features) if labels else None
    if labels and label_key is None:
        raise InputError(
            f"tfds:{name} has the features {', '.join(sorted(features))}, expected one class "
            "label, or one that is called 'label': set model.conditional to False."
        )
    try:
        source = builder.as_data_source(split, file_format="array_record")
    except ValueError as error:
        raise InputError(f"tfds:{name} cannot give the split {split!r} ({error})") from error
    found, label = [], []
    try:
        for index in range(len(source)):
            record = source[index]
            found.append(record[key].decode())
            if label_key is not None:
                label.append(record[label_key])
    except UnicodeDecodeError as error:
        raise InputError(f"tfds:{name} holds a text that is not UTF-8 ({error}).") from error
    if label_key is None:
        return found, None, ()
    if min(label, default=0) < 0:
        raise InputError(
            f"tfds:{name} has texts without a label in the split {split!r}: choose another "
            "data.split, or set model.conditional to False."
        )
    class_names = tuple(features[label_key].names)
    label, _ = check_labels(f"tfds:{name}", np.array(label), len(found), len(class_names))
    return found, label, class_names


def _prepared(name: str, data_dir: str | None) -> Any:
    builder = find_builder(name, data_dir)
    if not is_prepared(builder):
        raise InputError(
            f"{name} is not prepared in {builder.data_dir}: run `ganjax data prepare "
            f"{name.partition(':')[0]}`, or set data.data_dir to where it is."
        )
    return builder


def _feature_keys(title: str, features: Any) -> tuple[str, str | None]:
    """Return the names of the images and of the labels, None where there are none."""
    tfds = import_tfds()
    images = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8
    ]
    if "image" not in images and len(images) != 1:
        raise InputError(
            f"{title} has the features {', '.join(sorted(features))}, expected one of 8-bit "
            "images, or one that is called 'image': choose another data set."
        )
    return "image" if "image" in images else images[0], _label_key(features)


def _label_key(features: Any) -> str | None:
    """Return the name of the labels, or None where there are none, or several."""
    kind = import_tfds().features.ClassLabel
    labels = [key for key, feature in features.items() if isinstance(feature, kind)]
    return "label" if "label" in labels else labels[0] if len(labels) == 1 else None


@dataclasses.dataclass(frozen=True)
class _Records:
    """Reads records by index; each process opens the files for itself."""

    name: str
    data_dir: str | None
    split: str
    rule: ImageRule
    image_key: str
    label_key: str | None
    num_classes: int = 0

    def source(self) -> Any:
        source = self.__dict__.get("_source")
        if source is None:
            builder = find_builder(self.name, self.data_dir)
            # The images are decoded here, with the rule, and not by TFDS: twice as fast.
            skip = import_tfds().decode.SkipDecoding()
            try:
                source = builder.as_data_source(
                    self.split, decoders={self.image_key: skip}, file_format="array_record"
                )
            except ValueError as error:
                raise InputError(
                    f"tfds:{self.name} cannot give the split {self.split!r} ({error})"
                ) from error
            self.__dict__["_source"] = source
        return source

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_source"}

    def __call__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        records = self.source().__getitems__([int(i) for i in indices])
        images = [
            decode(io.BytesIO(record[self.image_key]), f"image {i} of tfds:{self.name}", self.rule)
            for i, record in zip(indices, records, strict=True)
        ]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise InputError(
                f"the images of tfds:{self.name} have several sizes ({sizes}): set data.image_size."
            )
        batch = {"image": np.stack(images)}
        if self.label_key:
            label = np.array([record[self.label_key] for record in records])
            if self.num_classes:
                label, _ = check_labels(f"tfds:{self.name}", label, len(label), self.num_classes)
            batch["label"] = label.astype(np.int32)
        return batch

    def everything(self) -> dict[str, np.ndarray]:
        pieces = [
            np.arange(start, min(start + 256, len(self.source())))
            for start in range(0, len(self.source()), 256)
        ]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as executor:
            batches = list(executor.map(self, pieces))
        return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def import_tfds() -> ModuleType:
    """Import tensorflow_datasets, whose dependencies warn about their own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import tensorflow_datasets

    return tensorflow_datasets


def find_builder(name: str, data_dir: str | None = None) -> Any:
    """Return the TFDS builder of `NAME` or `NAME/CONFIG`, prepared or not.

    Raises:
      InputError: if TFDS knows no such data set; the message suggests the nearest name.
    """
    tfds = import_tfds()
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        near = nearest(name, known)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise InputError(
            f"tensorflow-datasets has no data set {name!r}{hint}; "
            "https://www.tensorflow.org/datasets lists them."
        ) from None
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"tensorflow-datasets cannot open {name!r} ({reason}): check the name and the "
            "configuration after the slash."
        ) from error


def is_prepared(builder: Any) -> bool:
    """Return whether a builder's data set is there.

    Raises:
      InputError: if it is, but not as array_record.
    """
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of a folder that is not there, which we say ourselves
    try:
        if not builder.is_prepared():
            return False
    finally:
        log.setLevel(level)
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise InputError(
            f"{builder.data_dir} is prepared as {' and '.join(sorted(formats))}, which needs "
            "TensorFlow: prepare it as array_record in another data_dir."
        )
    return True


def nearest(name: str, known: list[str]) -> str | None:
    """Return the known name that is closest, or None where none is close."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return close[0] if close else None
