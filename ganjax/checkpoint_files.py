"""One checkpoint on a disk or in a bucket: whether it is whole, and reading it."""

import errno
import math
import os
import re
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from ganjax.digest import (
    Path,
    bytes_crc32,
    check_leaves,
    first_changed,
    named_leaves,
    nested,
    raw_target,
    unsealed,
    with_key_type,
)
from ganjax.quiet import ask_for_no_metrics, bound_file_threads, quiet_leftovers, settle
from ganjax.types import InputError

FORMAT = 1  # of records; what has none is of this one
NAME = re.compile(r"(\d+)(?:\.(\d+))?")  # of a checkpoint's directory


class DamagedError(Exception):
    """What is wrong with a checkpoint, in words that follow a colon."""


class Checkpoint(NamedTuple):
    """A checkpoint that was found.

    Attributes:
      path: of its directory.
      step: from the name.
      record: its JSON object, see `ganjax.checkpoint`; None where it cannot be read.
    """

    path: epath.Path
    step: int
    record: dict | None


def is_record(record: object) -> bool:
    """Return whether a JSON value has what this library needs to know of a checkpoint."""
    needed = {"sequence": int, "metrics": dict, "leaves": dict, "metadata": dict}
    return isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in needed.items()
    )


def place_of(checkpoint: Checkpoint, others: list[Checkpoint]) -> float:
    """Return the place in the order of writing, also where the record cannot be read."""
    if checkpoint.record:
        return checkpoint.record["sequence"]
    if "." in checkpoint.path.name:
        return int(checkpoint.path.name.split(".")[1])
    earlier = (c.record["sequence"] for c in others if c.record and c.step < checkpoint.step)
    return max(earlier, default=0) + 0.5


def best_first(checkpoints: list[Checkpoint], metric: str | None, mode: str) -> list[Checkpoint]:
    """Return those whose metric is finite, the best (of "min" or "max") first."""

    def value(checkpoint: Checkpoint) -> float:
        return checkpoint.record["metrics"].get(metric, math.nan)

    ranked = [checkpoint for checkpoint in checkpoints if math.isfinite(value(checkpoint))]
    return sorted(ranked, key=value, reverse=mode == "max")


def make_writer(directory: epath.Path) -> ocp.AsyncCheckpointer:
    """Return what writes checkpoints in a directory."""
    quiet_leftovers()
    ask_for_no_metrics()
    bound_file_threads()
    # OCDBT keeps 0.4 kB in memory for each array of each save, and is no faster on a disk; in a
    # bucket it saves objects.
    arrays = ocp.PyTreeCheckpointHandler(use_ocdbt=is_remote(directory))
    items = {"state": arrays, "record": ocp.JsonCheckpointHandler()}
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(**items))


def read_state(checkpoint: Checkpoint, like: Any, *, whole: bool) -> Any:
    """Read the leaves of `like`, shapes with a sharding each, and compare their digests.

    Args:
      checkpoint: what was found.
      like: a tree of `jax.ShapeDtypeStruct`.
      whole: whether it has to hold every leaf that was saved.

    Raises:
      DamagedError: something is missing, cannot be read, or has changed.
      InputError: it is a checkpoint of something else.
    """
    if checkpoint.record is None:
        raise DamagedError("its record is missing or has changed")
    written_as = checkpoint.record.get("format", FORMAT)
    if written_as != FORMAT:
        raise InputError(
            f"{checkpoint.path} has format {written_as} and this ganjax reads format {FORMAT}: use "
            "the version that wrote it"
        )
    leaves, treedef = named_leaves(like)
    stored = checkpoint.record["leaves"]
    check_leaves(checkpoint.path, stored, leaves, whole=whole)
    arrays = _read_arrays(checkpoint.path, {path: raw_target(x) for path, x in leaves.items()})
    if name := first_changed(stored, arrays):
        raise DamagedError(f"{name} does not have the bits that were saved")
    return jax.tree.unflatten(
        treedef, [with_key_type(arrays[path], leaf) for path, leaf in leaves.items()]
    )


def damage_of_new(
    path: epath.Path, record: Mapping[str, Any], shapes: Mapping[Path, jax.ShapeDtypeStruct]
) -> str | None:
    """Read a new checkpoint back into host memory and say what is wrong with it.

    It takes no device memory and no other process, so that a thread of one process can do it.

    Args:
      path: of its directory.
      record: what was written there.
      shapes: of the arrays that were.
    """
    try:
        if unsealed((path / "record" / "metadata").read_text()) != record:
            return "its record has changed"
        if not shapes:
            return None
        on_host = nested({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in shapes})
        what = ocp.args.PyTreeRestore(item=nested(shapes), restore_args=on_host)
        arrays, _ = named_leaves(
            ocp.PyTreeCheckpointHandler(use_ocdbt=is_remote(path)).restore(
                path / "state", args=what
            )
        )
        for name in shapes:
            if bytes_crc32(arrays[name]) != record["leaves"]["/".join(name)][2]:
                return f"{'/'.join(name)} does not have the bits that were saved"
    except Exception as error:  # whatever Orbax says of it, it cannot be relied on
        return f"it cannot be read back ({cause(error)})"
    return None


def _read_arrays(
    where: epath.Path, targets: Mapping[Path, jax.ShapeDtypeStruct]
) -> dict[Path, jax.Array]:
    stored = {path: target for path, target in targets.items() if target.size}
    restored, damage = {}, ""
    if stored:
        arguments = {
            path: ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype)
            for path, x in stored.items()
        }
        what = ocp.args.PyTreeRestore(
            item=nested(stored), restore_args=nested(arguments), partial_restore=True
        )
        quiet_leftovers()
        try:
            # No `ocp.Checkpointer`: in it, processes that can read would wait for one that cannot.
            handler = ocp.PyTreeCheckpointHandler(use_ocdbt=is_remote(where))
            restored, _ = named_leaves(handler.restore(where / "state", args=what))
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # says something of this machine, not of the checkpoint
        except Exception as error:
            damage = f"its arrays cannot be read ({cause(error)})"
        if damage:
            settle()
            raise DamagedError(damage)
    # Orbax returns the target itself for an array that its own list of names has lost.
    if not all(isinstance(restored.get(path), jax.Array) for path in stored):
        raise DamagedError("arrays are missing")
    empty = {path: x for path, x in targets.items() if path not in stored}
    zeros = {p: jax.numpy.zeros(x.shape, x.dtype, device=x.sharding) for p, x in empty.items()}
    return {path: restored[path] if path in stored else zeros[path] for path in targets}


def is_remote(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


def is_committed(path: epath.Path) -> bool:
    if is_remote(path):  # no renaming there: Orbax marks what is complete
        return (path / "commit_success.txt").exists()
    try:
        return path.is_dir() and any(path.iterdir())
    except FileNotFoundError:
        return False  # removed in between
    except PermissionError:
        return True  # there is something, which counts as damaged


def emptied(directory: epath.Path) -> list[tuple[int, epath.Path]]:
    """Return the steps and paths of checkpoints of which nothing but the directory is left."""
    if is_remote(directory) or not directory.exists():
        return []
    there = [path for path in directory.iterdir() if NAME.fullmatch(path.name)]
    empty = [path for path in there if path.is_dir() and not is_committed(path)]
    return sorted((int(NAME.fullmatch(path.name)[1]), path) for path in empty)


def remove(path: epath.Path) -> None:
    """Remove a checkpoint, or what is left of one; warn where that is not possible."""
    try:
        # First make it no checkpoint, at one stroke: removing many files may be cut short.
        if is_remote(path):
            (path / "commit_success.txt").unlink(missing_ok=True)
        elif NAME.fullmatch(path.name):
            path = path.rename(path.with_name(f"{path.name}.removed"))
        for wait in (0.05, 0.2, 1.0):
            try:
                return path.rmtree()
            except OSError as error:
                # Writes that were abandoned at a failure may still make files in it.
                if error.errno != errno.ENOTEMPTY:
                    raise
            time.sleep(wait)
        path.rmtree()
    except OSError as error:
        warnings.warn(f"{path} could not be removed ({cause(error)})", stacklevel=2)


def cause(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "No space left on device" in text:
        return "no space left on the disk"
    return text if len(text) <= 200 else f"{text[:200]}..."


def barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def all_agree(answer: bool) -> bool:
    """Return whether every process says yes."""
    if jax.process_count() == 1:
        return answer
    return bool(np.all(multihost_utils.process_allgather(np.asarray(answer))))


def of_first(number: int) -> int:
    """Return the number that process 0 has."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))
