"""Preparing TFDS data sets as array_record, for the small classics without TensorFlow."""

import contextlib
import importlib.util
import io
import os
import socket
import sys
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ganjax.data.arrays import read_idx
from ganjax.data.tfds import find_builder, import_tfds, is_prepared
from ganjax.types import InputError

WITHOUT_TENSORFLOW = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def prepare(
    name: str,
    *,
    data_dir: str | None = None,
    downloads: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Prepare a data set of tensorflow-datasets so that `load("tfds:NAME")` can read it.

    mnist, fashion_mnist, kmnist, cifar10 and cifar100 need no TensorFlow; any other does. The
    result is the data set that the stock builder makes, under the same name. Checksums of the
    downloads are verified. What is already prepared is left as it is.

    Args:
      name: `NAME` or `NAME/CONFIG`.
      data_dir: where to; by default the environment variable TFDS_DATA_DIR, or
        ~/tensorflow_datasets.
      downloads: a folder with the raw files under their original names, for a machine without
        network.
      progress: is called with a line of text now and then.

    Returns:
      The folder of the prepared data set.

    Raises:
      InputError: if there is no such data set, a file is missing or damaged, the network does not
        answer, or TensorFlow is needed and missing.
    """
    if downloads is not None and not Path(downloads).is_dir():
        raise InputError(f"there is no folder {downloads}: give the one that holds the raw files.")
    builder = find_builder(name, data_dir)
    if is_prepared(builder):
        return str(builder.data_dir)
    if name in WITHOUT_TENSORFLOW:
        _check_network(builder, downloads)
        builder = _without_tensorflow(type(builder), _undisturbed(progress))(
            data_dir=data_dir, file_format="array_record"
        )
    elif importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"preparing {name} needs TensorFlow: pip install tensorflow (only "
            f"{', '.join(WITHOUT_TENSORFLOW)} are prepared without it), or copy it here from a "
            "machine where it is prepared as array_record."
        )
    tfds = import_tfds()
    config = tfds.download.DownloadConfig(
        manual_dir=downloads and os.path.abspath(downloads), try_download_gcs=False
    )
    # What TFDS prints is not the caller's output.
    with _no_bars(tfds), contextlib.redirect_stdout(sys.stderr):
        try:
            builder.download_and_prepare(download_config=config, file_format="array_record")
        except InputError:
            raise
        except Exception as error:
            raise _failed(name, downloads, error) from error
    return str(builder.data_dir)


def _check_network(builder: Any, downloads: str | None) -> None:
    """Raise if files have to be downloaded and cannot be: TFDS would try for minutes."""
    # Under data_dir/downloads/NAME TFDS keeps what it has downloaded, unfinished ones as folders.
    cache = Path(builder.data_dir).parents[1] / "downloads" / builder.name
    cached = [path for path in cache.glob("*") if path.is_file() and path.suffix != ".INFO"]
    missing = [
        url
        for url, url_info in builder.url_infos.items()
        if downloads is None or not Path(downloads, url_info.filename).exists()
    ]
    # A proxy knows names that this machine does not.
    if len(cached) >= len(missing) or urllib.request.getproxies():
        return
    server = urllib.parse.urlsplit(missing[0])
    try:
        port = server.port or (443 if server.scheme == "https" else 80)
        socket.create_connection((server.hostname, port), timeout=20).close()
    except OSError as error:
        raise InputError(
            f"the raw files of {builder.name} cannot be downloaded ({server.hostname}: {error}): "
            f"fetch {', '.join(missing)} on another machine and give their folder with --downloads."
        ) from error


def _undisturbed(progress: Callable[[str], None] | None) -> Callable[[str], None]:
    stdout = sys.stdout

    def report(line: str) -> None:
        if progress is not None:
            with contextlib.redirect_stdout(stdout):
                progress(line)

    return report


def _without_tensorflow(stock: type, progress: Callable[[str], None]) -> type:
    """Return a subclass of a stock builder that reads the raw files with NumPy.

    The stock builders read them with TensorFlow. Keys, features and order are theirs, so that the
    prepared files are the same data set.
    """
    is_cifar = hasattr(stock, "_cifar_info")

    class Builder(stock, skip_registration=True):
        name = stock.name
        # By the module TFDS finds the registered checksums; it is written to the prepared files.
        __module__ = stock.__module__

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
            progress(f"{stock.name}: finding or downloading the raw files")
            if not is_cifar:
                urls = {file: self.URL + file for files in _IDX_FILES.values() for file in files}
                paths = dl_manager.download(urls)
                return {
                    split: _idx_examples(split, *(Path(paths[file]) for file in files), progress)
                    for split, files in _IDX_FILES.items()
                }
            info = self._cifar_info
            contents = _read_tar(Path(dl_manager.download(info.url)), info)
            for label_key, label_file in zip(info.label_keys, info.label_files, strict=True):
                self.info.features[label_key].names = [
                    name for name in contents[label_file].decode().split("\n") if name
                ]
            return {
                split: _cifar_examples(split, [contents[file] for file in files], info, progress)
                for split, files in (("train", info.train_files), ("test", info.test_files))
            }

    return Builder


def _idx_examples(
    split: str, images: Path, labels: Path, progress: Callable[[str], None]
) -> Iterator[tuple[int, dict]]:
    for i, (image, label) in enumerate(zip(read_idx(images), read_idx(labels), strict=True)):
        yield i, {"image": _png(image), "label": int(label)}
        _report(split, i + 1, progress)


def _read_tar(path: Path, info: Any) -> dict[str, bytes]:
    contents = {}
    with tarfile.open(path) as archive:
        # Into memory, and only the files that are asked for: nothing is unpacked to disk.
        for file in (*info.train_files, *info.test_files, *info.label_files):
            member = archive.extractfile(info.prefix + file)
            contents[file] = member.read() if member else b""
    return contents


def _cifar_examples(
    split: str, contents: list[bytes], info: Any, progress: Callable[[str], None]
) -> Iterator[tuple[int, dict]]:
    num_labels = len(info.label_keys)
    # A record is one byte a label, then the red, the green and the blue plane, 32 by 32 each.
    records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, num_labels + 3072)
    for i, record in enumerate(records):
        planes = record[num_labels:].reshape(3, 32, 32)
        labels = zip(info.label_keys, record[:num_labels].tolist(), strict=True)
        image = _png(planes.transpose(1, 2, 0))
        yield i, {"image": image, "id": f"{split}_{i:05d}", **dict(labels)}
        _report(split, i + 1, progress)


def _report(split: str, count: int, progress: Callable[[str], None]) -> None:
    if count % 10_000 == 0:
        progress(f"{split}: {count:,} images written")


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "png")
    return content.getvalue()


@contextlib.contextmanager
def _no_bars(tfds: Any) -> Iterator[None]:
    # tqdm's bars would garble the caller's own progress.
    tqdm_utils = tfds.core.utils.tqdm_utils
    active = tqdm_utils._active
    tfds.display_progress_bar(False)
    try:
        yield
    finally:
        tfds.display_progress_bar(active)


def _failed(name: str, downloads: str | None, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if "wrong checksum" in reason:
        return InputError(
            f"a raw file of {name} is damaged or not the original ({reason}): download it again."
        )
    where = f" and not all of them are in {downloads}" if downloads else ""
    return InputError(
        f"{name} could not be prepared: {type(error).__name__}: {reason}; if its raw files could "
        f"not be downloaded{where}, fetch them elsewhere and give their folder with --downloads."
    )
