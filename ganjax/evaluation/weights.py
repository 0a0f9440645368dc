"""Weights that do not come with the package: where they are from, and their copy on this machine.

A file is fetched once, its sha256 is checked, and its tensors are kept as a plain .npz below
`~/.cache/ganjax` (or `$XDG_CACHE_HOME/ganjax`).
"""

import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ganjax.evaluation.extractor import Extractor, weights_sha256
from ganjax.evaluation.inception import NAME, inception_v3
from ganjax.files import read_arrays
from ganjax.types import InputError


class Source(NamedTuple):
    """A file of weights that others publish.

    Attributes:
      name: what commands call it.
      address: where it is fetched.
      sha256: of the file.
      num_bytes: of the file.
      licence: under which it is published, and by whom.
    """

    name: str
    address: str
    sha256: str
    num_bytes: int
    licence: str


INCEPTION = Source(
    name="inception-v3",
    address=(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth"
    ),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    num_bytes=95_628_359,
    licence="Apache-2.0, TensorFlow authors (2015-12-05 graph), converted by pytorch-fid",
)
SOURCES = {source.name: source for source in (INCEPTION,)}


def cache_directory(kind: str) -> Path:
    """Return the folder for what can be made again: `weights`, `references` or `compiled`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ganjax" / kind


def install(
    name: str,
    file: str | os.PathLike | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Path:
    """Keep a copy of published weights on this machine.

    Args:
      name: a key of `SOURCES`.
      file: the published file, where it is here already; by default it is fetched.
      progress: told what happens.

    Returns:
      The path of the copy.

    Raises:
      InputError: the file cannot be had, is not what was published, or cannot be kept.
    """
    if name not in SOURCES:
        raise InputError(f"there are no weights {name!r}: choose from {', '.join(SOURCES)}.")
    source = SOURCES[name]
    target = _copy_of(source)
    if file is not None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise InputError(f"there is no file {path}.")
        found = _sha256(path)
        if found != source.sha256:
            raise InputError(
                f"{path} is not the published file of {name}: its sha256 is {found}, expected "
                f"{source.sha256}. To judge by other weights, pass the file as --extractor."
            )
        return _keep(source, path, target)
    progress(f"fetching {source.num_bytes / 1e6:.0f} MB from {source.address} ({source.licence})")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source.address.rsplit("/", 1)[-1]
        _fetch(source, path)
        return _keep(source, path, target)


def installed_inception() -> Extractor:
    """Return the FID's Inception network from the copy on this machine.

    Raises:
      InputError: there is none, or it is damaged.
    """
    path = _copy_of(INCEPTION)
    if not path.exists():
        raise InputError(
            f"the weights of {INCEPTION.name} are not on this machine: run `ganjax weights "
            f"{INCEPTION.name}`, which fetches {INCEPTION.num_bytes / 1e6:.0f} MB from "
            f"{INCEPTION.address}; without a network, bring that file and run `ganjax weights "
            f"{INCEPTION.name} --file {INCEPTION.address.rsplit('/', 1)[-1]}`."
        )
    try:
        tensors = read_arrays(path)
        metadata = json.loads(tensors.pop("__metadata__").tobytes())
        intact = metadata["sha256"] == weights_sha256(tensors)
    except Exception as error:
        raise InputError(
            f"{path} cannot be read ({error}): run `ganjax weights {INCEPTION.name}` again."
        ) from error
    if not intact:
        raise InputError(f"{path} is damaged: run `ganjax weights {INCEPTION.name}` again.")
    return inception_v3(tensors)


def inception_from_file(path: str | os.PathLike) -> Extractor:
    """Return the Inception network with the weights of a `.pth` file, whatever it was trained on.

    Figures made with other weights than the published ones are called by their own names, not FID.

    Raises:
      InputError: the file cannot be read, or does not hold this network.
    """
    from ganjax import interop

    path = Path(path)
    tensors = interop.read_tensors(path)
    extractor = inception_v3(tensors)
    if _sha256(path) == INCEPTION.sha256:
        return extractor
    import dataclasses

    return dataclasses.replace(extractor, name=f"{NAME}, weights of {path.name}", published={})


def _copy_of(source: Source) -> Path:
    return cache_directory("weights") / f"{source.name}-{source.sha256[:8]}.npz"


def _keep(source: Source, path: Path, target: Path) -> Path:
    from ganjax import interop

    tensors = {
        name: np.asarray(value)
        for name, value in interop.read_tensors(path).items()
        if not name.endswith("num_batches_tracked") and not name.startswith("AuxLogits")
    }
    inception_v3(tensors)  # refuses what is not this network
    about = {"address": source.address, "licence": source.licence, "source": source.sha256}
    write_archive(target, tensors, about)
    return target


def write_archive(target: Path, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write tensors as a plain .npz at one stroke, with facts and their sha256 as JSON.

    Raises:
      InputError: it cannot be written.
    """
    text = json.dumps({**about, "sha256": weights_sha256(tensors)}, indent=1, sort_keys=True)
    metadata = np.frombuffer(text.encode(), np.uint8)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, __metadata__=metadata, **tensors)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{target} cannot be written: {error.strerror or error}.") from error


def _fetch(source: Source, path: Path) -> None:
    by_hand = (
        f"fetch it where there is a network, and run `ganjax weights {source.name} --file "
        f"{path.name}` here."
    )
    try:
        with urllib.request.urlopen(source.address, timeout=60) as answer, path.open("wb") as file:
            left = source.num_bytes + 1
            while left > 0 and (chunk := answer.read(min(1 << 20, left))):
                file.write(chunk)
                left -= len(chunk)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{source.address} cannot be fetched ({reason}): {by_hand}") from error
    found = _sha256(path)
    if found != source.sha256:
        raise InputError(
            f"what came from {source.address} is not the published file: its sha256 is {found}, "
            f"expected {source.sha256}; {by_hand}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
