"""Checkpoints: the whole state and its configuration, written in the background, verified.

A checkpoint is a directory named like its step (`1000`, or `1000.7` where step 1000 was written
again, as the seventh of all) with two Orbax items: `state`, the arrays by their names, and
`record`, one JSON object with the metadata, the metrics and, for every leaf, its shape, dtype and
digest; and, where scores came after the save, `metrics.json`. It appears under that name only when
it is complete. Orbax keeps no checksum of array data: the digests are what makes damage visible.
What was written is read back and compared before anything older is removed.
"""

import concurrent.futures
import contextlib
import copy
import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ganjax.checkpoint_files import (
    FORMAT,
    NAME,
    Checkpoint,
    DamagedError,
    all_agree,
    barrier,
    best_first,
    cause,
    damage_of_new,
    emptied,
    is_committed,
    is_record,
    is_remote,
    make_writer,
    of_first,
    place_of,
    read_state,
    remove,
)
from ganjax.digest import (
    described,
    named_leaves,
    nested,
    sealed,
    unsealed,
    without_key_type,
)
from ganjax.quiet import settle
from ganjax.types import InputError

_LATER_METRICS = "metrics.json"
_UNFINISHED = re.compile(r"\d+(\.\d+)?\.(orbax-checkpoint-tmp.*|removed)")


class Checkpointer:
    """Write and read the checkpoints of one run.

    Of the committed checkpoints, the last, the best and every n-th are kept; others are removed
    once a newer one is committed and proven: a thread has read all of it back from the disk (into
    host memory, on process 0) and found the digests of what was saved. One that fails is named in
    a warning, and everything older stays. "Last" is by the order of writing: after a return to an
    earlier step, what is written next is the latest, even where its step is smaller. One run at a
    time writes to a directory; with several processes every process makes the same calls.

    Args:
      directory: local, or on Google Cloud Storage (`gs://...`); made by the first `save`.
      keep_last: how many of the latest are kept, at least 1.
      keep_best: how many of the best by `best_metric` are kept besides.
      best_metric: the key in `metrics` that says which is best; not finite never counts.
      best_mode: `"min"` or `"max"`.
      keep_every_steps: keep the checkpoints of all multiples of this for ever.

    Raises:
      ValueError: a setting is out of range.
      InputError: `directory` is a file.

    >>> import tempfile, jax.numpy as jnp
    >>> with Checkpointer(tempfile.mkdtemp()) as checkpointer:
    ...     checkpointer.save(10, {"weight": jnp.ones(3)}, metadata={"seed": 0})
    ...     checkpointer.restore({"weight": jax.ShapeDtypeStruct((3,), "float32")})
    ({'weight': Array([1., 1., 1.], dtype=float32)}, {'seed': 0})
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        best_metric: str | None = None,
        best_mode: str = "min",
        keep_every_steps: int | None = None,
    ):
        every = 1 if keep_every_steps is None else keep_every_steps
        if keep_last < 1 or keep_best < 0 or every < 1:
            raise ValueError(
                f"{keep_last=}, {keep_best=}, {keep_every_steps=}: expected at least 1, 0 and 1"
            )
        if best_mode not in ("min", "max"):
            raise ValueError(f"best_mode is {best_mode!r}: expected 'min' or 'max'")
        name = os.fspath(directory)
        if "://" not in name:  # Orbax needs absolute paths
            name = os.path.abspath(os.path.expanduser(name))
        self.directory = epath.Path(name)
        if self.directory.exists() and not self.directory.is_dir():
            raise InputError(f"{self.directory} is a file: expected a directory of checkpoints")
        self.keep_last, self.keep_best = keep_last, keep_best
        self.best_metric, self.best_mode = best_metric, best_mode
        self.keep_every_steps = keep_every_steps
        self._writer: ocp.AsyncCheckpointer | None = None
        self._prover: ThreadPoolExecutor | None = None
        self._pending: int | None = None  # the step that is being written
        self._written: epath.Path | None = None  # where
        self._proof: Future | None = None  # what is wrong with it, None if nothing
        self._proven: set[str] = set()  # directory names: what lies there is as it was saved
        self._records: dict[str, dict] = {}  # by directory name; a committed one never changes
        self._damaged: set[str] = set()  # directory names
        self._held: set[int] = set()  # steps whose metrics are still to come

    @property
    def _alone(self) -> bool:
        return jax.process_count() == 1

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None and not self._alone:  # the others may be elsewhere
            return self._end_writer()
        try:
            self.close()
        except InputError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the first error is the one to show

    def save(
        self,
        step: int,
        state: Any,
        *,
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Start to write a checkpoint and return once the state is copied off the device.

        `state` may be donated right after. Waits for an earlier save that is still running. A step
        that was written before is replaced once the new one is committed.

        Args:
          step: names the checkpoint.
          state: a tree of `jax.Array` (typed keys, None and empty nodes included).
          metadata: JSON-able: the resolved configuration, phase, versions.
          metrics: what `best_metric` is looked up in.

        Raises:
          InputError: this or the previous save could not be written, such as a full disk.
          ValueError: a leaf is no array, or `metadata` cannot be JSON.
        """
        self.wait()
        leaves, _ = named_leaves(state)
        there = self._checkpoints()
        sequence = of_first(1 + max((math.floor(place_of(c, there)) for c in there), default=0))
        record = {
            "format": FORMAT,
            "step": int(step),
            "sequence": sequence,
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "leaves": described(leaves),
            "metadata": metadata,
        }
        sealed_record = sealed(record)
        items = {"record": ocp.args.JsonSave(sealed_record)}
        stored = {path: without_key_type(leaf) for path, leaf in leaves.items() if leaf.size}
        if stored:  # Orbax does not write arrays of size zero
            items["state"] = ocp.args.PyTreeSave(nested(stored))
        try:
            if self._writer is None:
                self._start_writer()
            elif not all_agree(self.directory.exists()):
                self._make_again()
            self._written = self._new_path(step, sequence)
            self._writer.save(self._written, ocp.args.Composite(**items))
        except (OSError, ValueError) as error:
            raise self._failure(step, error) from error
        self._pending = step
        shapes = {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in stored.items()}
        self._proof = self._prover.submit(
            self._finish, self._writer, self._written, sealed_record["record"], shapes
        )

    def hold(self, step: int) -> None:
        """Keep the checkpoint of a step, where there is or will be one, until `add_metrics`.

        What is known of it later may make it the best.
        """
        self._held.add(step)

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note what became known of a checkpoint after it was saved; nothing where there is none.

        Of several processes only the first need call it.

        Args:
          step: of the checkpoint.
          metrics: what `best_metric` is looked up in.

        Raises:
          InputError: it could not be written.
        """
        if self._pending == step and self._alone:
            self.wait()
        elif self._pending == step:  # what else `wait` does needs the others
            concurrent.futures.wait([self._proof])
        self._held.discard(step)
        named = [checkpoint for checkpoint in self._checkpoints() if checkpoint.step == step]
        if not named or named[-1].record is None:
            return
        record = named[-1].record
        known = {**record["metrics"], **{name: float(value) for name, value in metrics.items()}}
        try:
            if jax.process_index() == 0:
                path = named[-1].path / _LATER_METRICS
                temporary = path.with_name(f"{_LATER_METRICS}.new")
                temporary.write_text(json.dumps(sealed(known)))
                temporary.replace(path)
        except OSError as error:
            raise InputError(
                f"{named[-1].path}: metrics could not be written ({cause(error)})"
            ) from error
        record["metrics"] = known
        if self._pending is None and self._alone:  # else after the running save, by all
            self._remove_superseded()

    def wait(self) -> None:
        """Wait until the running save is committed and proven, then remove what need not be kept.

        Warns where what was written is not what was saved; then nothing is removed.

        Raises:
          InputError: it could not be written. Nothing that was there before is lost.
        """
        if self._pending is None:
            return
        try:
            damage = self._proof.result()
        except Exception as error:
            step, self._pending = self._pending, None
            self._end_writer()
            raise self._failure(step, error) from error
        self._pending = None
        if all_agree(damage is None):
            self._proven.add(self._written.name)
            self._remove_superseded()
            return
        self._damaged.add(self._written.name)
        if damage:  # known where it was read
            warnings.warn(
                f"{self._written} is damaged as soon as it is written: {damage}; nothing older is "
                "removed",
                stacklevel=2,
            )

    def steps(self) -> list[int]:
        """Return the steps that have a committed checkpoint, in increasing order."""
        return sorted({checkpoint.step for checkpoint in self._checkpoints()})

    def latest_step(self) -> int | None:
        """Return the step of the checkpoint that was written last, or None."""
        checkpoints = self._checkpoints()
        return checkpoints[-1].step if checkpoints else None

    def best_step(self) -> int | None:
        """Return the step with the best finite `best_metric`, or None."""
        best = best_first(self._sound(), self.best_metric, self.best_mode)
        return best[0].step if best else None

    def metadata(self, step: int | None = None) -> dict:
        """Return the metadata of a checkpoint, of the latest readable one where step is None.

        No array is read, so that damaged arrays are not noticed; what belongs to a restored state
        is the second result of `restore`.

        Raises:
          InputError: there is none, or it is damaged.
        """
        candidates = self._candidates(step)
        for checkpoint in candidates:
            if checkpoint.record and checkpoint.path.name not in self._damaged:
                return copy.deepcopy(checkpoint.record["metadata"])
        raise InputError(f"{candidates[0].path} is damaged, and no other one will do")

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict]:
        """Return a state and its metadata, bit for bit as they were saved.

        Args:
          like: the tree to fill: arrays or `jax.ShapeDtypeStruct`; or a function that makes it of
            the metadata of the checkpoint that is read. A leaf goes to its `sharding`, to the
            default device where that is None.
          step: which one; None is the latest, and where that is damaged, with a warning, the
            newest sound one.

        Returns:
          The state with the tree, shapes, dtypes and shardings of `like`, in buffers of its own
          that may be donated; and the metadata.

        Raises:
          InputError: there is none, it is damaged, or it is not of this tree (the first leaf that
            differs is named).
        """
        return self._restore(like, step, whole=True)

    def restore_subtree(self, like: Any, step: int | None = None) -> tuple[Any, dict]:
        """Like `restore`, and read only the leaves that are in `like`.

        Leaves are matched by name, so that plain dicts do for the state's own types:
        `{"ema": shapes.ema}` or `{"players": {"generator": {"params": ...}}}`.
        """
        return self._restore(like, step, whole=False)

    def close(self) -> None:
        """Wait for the running save and end the background threads; a later `save` may follow.

        Raises:
          InputError: the running save could not be written.
        """
        try:
            self.wait()
        finally:
            self._end_writer()

    def _start_writer(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        self._writer = make_writer(self.directory)
        self._prover = ThreadPoolExecutor(1, "ganjax-checkpoint-proof")

    def _end_writer(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._prover.shutdown()
            with contextlib.suppress(Exception):  # what went wrong has been said
                writer.close()

    def _make_again(self) -> None:
        """Go on where somebody has removed the checkpoints; not where the run itself is gone."""
        if jax.process_index() == 0:
            self.directory.mkdir(exist_ok=True)
            warnings.warn(f"{self.directory} was removed, and is made again", stacklevel=3)
        barrier("ganjax_checkpoint_directory")
        for known in (self._records, self._damaged, self._proven):
            known.clear()

    @staticmethod
    def _finish(writer, path: epath.Path, record: dict, shapes: Mapping) -> str | None:
        """Wait for the commit and return what is wrong with it; in a thread, training goes on."""
        writer.wait_until_finished()
        return damage_of_new(path, record, shapes) if jax.process_index() == 0 else None

    def _new_path(self, step: int, sequence: int) -> epath.Path:
        taken = {path.name.split(".")[0] for path in self.directory.iterdir()}
        again = of_first(str(step) in taken)
        return self.directory / (f"{step}.{sequence}" if again else f"{step}")

    def _failure(self, step: int, error: Exception) -> InputError:
        """Remove what is left of a failed save and say what happened."""
        settle()
        if self._alone:  # the others may not have failed
            self._remove_unfinished()
        kept = self.latest_step()
        return InputError(
            f"{self.directory}: the checkpoint of step {step} could not be written "
            f"({cause(error)}); the latest complete one is "
            + ("none" if kept is None else f"of step {kept}")
        )

    def _checkpoints(self) -> list["Checkpoint"]:
        """Return the committed checkpoints in the order of writing."""
        if not self.directory.exists():
            return []
        found = []
        for path in self.directory.iterdir():
            match = NAME.fullmatch(path.name)
            if match and is_committed(path):
                if path.name not in self._records:
                    with contextlib.suppress(OSError, ValueError):  # then it is damaged
                        record = unsealed((path / "record" / "metadata").read_text())
                        if is_record(record):
                            self._records[path.name] = record
                    with contextlib.suppress(OSError, ValueError, KeyError):  # often not there
                        later = unsealed((path / _LATER_METRICS).read_text())
                        self._records[path.name]["metrics"] |= later
                found.append(Checkpoint(path, int(match[1]), self._records.get(path.name)))
        sequences = {c.path.name: place_of(c, found) for c in found}
        return sorted(found, key=lambda found: (sequences[found.path.name], found.step))

    def _sound(self) -> list["Checkpoint"]:
        """Return the checkpoints not known to be damaged: for each step the one written last."""
        last = {
            checkpoint.step: checkpoint
            for checkpoint in self._checkpoints()
            if checkpoint.record and checkpoint.path.name not in self._damaged
        }
        return sorted(last.values(), key=lambda checkpoint: checkpoint.record["sequence"])

    def _candidates(self, step: int | None) -> list["Checkpoint"]:
        """Return where to look for a step, the newest first."""
        self.wait()
        self._records.clear()  # another process may have written
        newest_first = self._checkpoints()[::-1]
        if step is not None:
            newest_first = [c for c in newest_first if c.step == step][:1]
        if not newest_first:
            there = ", ".join(map(str, self.steps())) or "none"
            wanted = "a checkpoint" + ("" if step is None else f" of step {step}")
            raise InputError(f"{self.directory}: expected {wanted}, and there is {there}")
        return newest_first

    def _restore(self, like: Any, step: int | None, *, whole: bool) -> tuple[Any, dict]:
        candidates = self._candidates(step)
        damage, empty = [], emptied(self.directory) if step is None else []
        for checkpoint in candidates:
            wrong = None
            try:
                made = callable(like) and checkpoint.record is not None
                tree = like(checkpoint.record["metadata"]) if made else like
                state = read_state(checkpoint, tree, whole=whole)
            except DamagedError as error:
                if step is None and self._alone and not checkpoint.path.exists():
                    return self._restore(like, step, whole=whole)  # superseded meanwhile
                wrong = str(error)
            if not all_agree(wrong is None):
                self._damaged.add(checkpoint.path.name)
                wrong = wrong or "another process could not read it"
                damage.append(f"{checkpoint.path} is damaged: {wrong}")
                continue
            damage += [f"{path} is empty" for at, path in empty if at > checkpoint.step]
            if damage:
                text = f"{'; '.join(damage)}; went back to step {checkpoint.step}"
                warnings.warn(text, stacklevel=3)
            if whole:
                self._proven.add(checkpoint.path.name)
            return state, copy.deepcopy(checkpoint.record["metadata"])
        damage += [f"{path} is empty" for _, path in empty]
        others = self._sound()
        advice = f"step {others[-1].step} may be sound" if others else "no other one is there"
        raise InputError(f"{'; '.join(damage)}; {advice}")

    def _remove_superseded(self) -> None:
        sound = self._sound()
        proven = bool(sound) and sound[-1].path.name in self._proven
        best = best_first(sound, self.best_metric, self.best_mode)[: self.keep_best]
        kept = sound[-self.keep_last :] + best
        if every := self.keep_every_steps:
            kept += [c for c in sound if c.step % every == 0]
        kept += [checkpoint for checkpoint in sound if checkpoint.step in self._held]
        kept_names = {checkpoint.path.name for checkpoint in kept}
        for checkpoint in self._checkpoints() if proven else ():
            # What is damaged is neither counted nor removed: it may be all that is left of a step.
            known_damaged = checkpoint.record is None or checkpoint.path.name in self._damaged
            if not known_damaged and checkpoint.path.name not in kept_names:
                self._remove(checkpoint.path)
        barrier("ganjax_checkpoint_removed")

    def _remove_unfinished(self) -> None:
        for path in self.directory.iterdir() if self.directory.exists() else ():
            is_name = NAME.fullmatch(path.name) and is_remote(path)
            if _UNFINISHED.fullmatch(path.name) or (is_name and not is_committed(path)):
                self._remove(path)
        barrier("ganjax_checkpoint_unfinished")

    def _remove(self, path: epath.Path) -> None:
        self._records.pop(path.name, None)
        if jax.process_index() == 0:
            remove(path)


def restore_subtree(
    directory: str | os.PathLike, like: Any, step: int | None = None
) -> tuple[Any, dict]:
    """Read part of a state, such as the generator for sampling, and no optimizer moments.

    As `Checkpointer.restore_subtree`, for a directory that somebody else may be writing to.

    >>> import tempfile, jax.numpy as jnp
    >>> directory = tempfile.mkdtemp()
    >>> with Checkpointer(directory) as checkpointer:
    ...     checkpointer.save(1, {"ema": jnp.ones(2), "moments": jnp.ones(2)}, metadata={})
    >>> restore_subtree(directory, {"ema": jax.ShapeDtypeStruct((2,), "float32")})
    ({'ema': Array([1., 1.], dtype=float32)}, {})
    """
    with Checkpointer(directory) as checkpointer:
        return checkpointer.restore_subtree(like, step)
