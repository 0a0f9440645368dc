"""The run directory: what a training leaves behind, and who may write there.

config.json       the resolved configuration, the data it met, versions
metrics.jsonl     one line per logged chunk of steps
events.out.*      the same for TensorBoard
samples/          pictures on fixed latents, named by step
checkpoints/      see `ganjax.checkpoint`
curves.png        metrics over steps
evaluation.json   every score so far, each with how it was made
lock              of the training that writes here
processes/        what several processes tell each other; see `ganjax.processes`
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from ganjax.events import Events
from ganjax.files import check_regular, parse_json, reading
from ganjax.loop import Callback, Progress
from ganjax.processes import is_new
from ganjax.types import InputError

CONFIG, METRICS, EVALUATION = "config.json", "metrics.jsonl", "evaluation.json"
LOCK = "lock"


class RunDirectory:
    """A directory on a disk, or in a bucket where `etils.epath` has support for it.

    Of several processes that train one run the first one writes; all of them read.
    """

    def __init__(self, path: str | os.PathLike):
        name = os.fspath(path)
        try:
            local = os.path.abspath(os.path.expanduser(name))
            self.path = epath.Path(name if "://" in name else local)
        except KeyError as error:
            raise InputError(f"{name}: there is no such kind of storage as {error}") from error
        self._is_locked = False

    def __str__(self) -> str:
        return str(self.path)

    @property
    def checkpoints(self) -> epath.Path:
        return self.path / "checkpoints"

    @property
    def shown(self) -> str:
        """The path as a person would type it here."""
        if "://" in str(self.path):
            return str(self.path)
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith("..") else relative

    def create(self, record: Mapping[str, Any]) -> None:
        """Start a run: make the directory and write its configuration, at one stroke.

        Raises:
          InputError: there is a run already, or something else that a run would mix with.
        """
        if jax.process_index() != 0:
            return
        self._check_free()
        with _disk_errors(self.shown):
            self.path.mkdir(parents=True, exist_ok=True)
        with self.locked():  # of two that start here at once, one becomes the run
            self._check_free()
            self.rewrite(record)

    def _check_free(self) -> None:
        if (self.path / CONFIG).exists():
            raise InputError(
                f"{self.shown} already holds a run; continue it with `ganjax resume {self.shown}` "
                "or choose another --run-directory"
            )
        if not self.path.exists():
            return
        if not is_new(self.path):
            raise InputError(
                f"{self.shown} exists and is no run; choose an empty or a new --run-directory"
            )

    def record(self) -> dict[str, Any]:
        """Return what `create` wrote."""
        path = self.path / CONFIG
        if not path.exists():
            hint = "" if self.path.exists() else "; there is no such directory"
            raise InputError(f"{self.shown} holds no run: {CONFIG} is missing{hint}")
        record = parse_json(self._text(CONFIG), f"{self.shown}/{CONFIG}")
        if not isinstance(record, dict) or "config" not in record or "data" not in record:
            raise InputError(f"{self.shown}/{CONFIG} is not what a run writes there")
        wrong = _wrong_entry(record)
        if wrong:
            raise InputError(f"{self.shown}/{CONFIG} is not what a run writes there ({wrong})")
        return record

    def _text(self, name: str) -> bytes:
        path = self.path / name
        if "://" not in str(self.path):
            check_regular(path)
        with reading(f"{self.shown}/{name}"):
            return path.read_bytes()

    def rewrite(self, record: Mapping[str, Any]) -> None:
        """Replace the configuration at once, as resuming with more steps does."""
        self._replace(CONFIG, json.dumps(record, indent=2) + "\n")

    def _replace(self, name: str, text: str) -> None:
        """Write a file at one stroke: a killed process leaves the old one or the new one."""
        if jax.process_index() != 0:
            return
        with _disk_errors(self.shown):
            temporary = self.path / (name + ".new")
            temporary.write_text(text)
            temporary.replace(self.path / name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine from writing to the run.

        Raises:
          InputError: another process is training here.
        """
        if "://" in str(self.path) or os.name != "posix" or jax.process_index() != 0:
            yield
            return
        import fcntl

        with contextlib.ExitStack() as stack:
            with _disk_errors(self.shown):
                handle = stack.enter_context(open(self.path / LOCK, "a+"))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.seek(0)
                raise InputError(
                    f"{self.shown} is in use by process {handle.read().strip() or 'unknown'}; wait "
                    "for it, or choose another --run-directory"
                ) from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    def check_held(self) -> None:
        """Look whether the run is still there and ours, before more is written, while `locked`.

        Raises:
          InputError: somebody has removed it, or another process has begun anew in its place.
        """
        if not self._is_locked:
            return
        if not (self.path / CONFIG).exists():
            raise InputError(
                f"{self.shown} was removed while it trained ({CONFIG} is gone); the training ends"
            )
        with contextlib.suppress(FileNotFoundError):  # without the file nobody else is here
            holder = (self.path / LOCK).read_text()
            if holder not in ("", str(os.getpid())):
                raise InputError(
                    f"{self.shown} was removed while it trained, and process {holder} has begun "
                    "anew there; the training ends"
                )

    def read_metrics(self) -> list[dict[str, float]]:
        """Return the logged lines, without what is no such line, as where one was cut short."""
        return self._metrics()[0]

    def _metrics(self) -> tuple[list[dict[str, float]], int]:
        """Return the logged lines, and how many others there are, a last one cut short apart."""
        path = self.path / METRICS
        if not path.exists():
            return [], 0
        text = self._text(METRICS)
        parsed = [_metrics_line(line) for line in text.splitlines()]
        lines = [line for line in parsed if line is not None]
        cut_short = bool(parsed) and parsed[-1] is None and not text.endswith(b"\n")
        return lines, len(parsed) - len(lines) - cut_short

    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """Return each logged quantity as (steps, values)."""
        curves: dict[str, tuple[list[int], list[float]]] = {}
        for line in self.read_metrics():
            for name, value in line.items():
                if name != "step" and value is not None:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(line["step"])
                    values.append(value)
        return curves

    def add_evaluation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Append the figures of one evaluation, as JSON-able mappings."""
        entries = [*self.evaluations(), {"step": step, "figures": figures}]
        self._replace(EVALUATION, json.dumps(entries, indent=2) + "\n")

    def evaluations(self) -> list[dict[str, Any]]:
        """Return what `add_evaluation` wrote, in its order."""
        path = self.path / EVALUATION
        if not path.exists():
            return []
        try:
            entries = parse_json(self._text(EVALUATION), f"{self.shown}/{EVALUATION}")
        except InputError as error:
            raise InputError(f"{error}; move it away") from error
        if not isinstance(entries, list) or not all(map(_is_evaluation, entries)):
            raise InputError(
                f"{self.shown}/{EVALUATION} is not what a run writes there; move it away"
            )
        return entries


def _metrics_line(text: bytes) -> dict[str, float] | None:
    """Return what a line says, None where it is no line of metrics."""
    try:
        line = parse_json(text, METRICS)
    except InputError:
        return None
    if not isinstance(line, dict) or not _is_step(line.get("step")):
        return None
    numbers = {k: v for k, v in line.items() if _is_number(v) or v is None}
    return numbers if len(numbers) == len(line) else None


def _is_step(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _is_number(value: Any) -> bool:
    return type(value) is float or _is_step(value)


def _is_evaluation(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and _is_step(entry.get("step"))
        and isinstance(entry.get("figures"), dict)
        and all(isinstance(figure, dict) for figure in entry["figures"].values())
    )


def _wrong_entry(record: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the entries beside the configuration, which is checked for itself.

    They decide on shapes and names, and were written by whoever trained the model.
    """
    data = record["data"]
    for name in ("data", "config"):
        if not isinstance(record[name], dict):
            return f"its {name} is no mapping"
    shape = data.get("shape", [])
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 1 << 20 for n in shape):
        return "data.shape is no list of positive numbers"
    for name in ("num_classes", "num_examples"):
        if type(data.get(name, 0)) is not int or not 0 <= data.get(name, 0) < 1 << 48:
            return f"data.{name} is no number"
    for name in ("name", "split", "fingerprint"):
        if not isinstance(data.get(name, ""), str):
            return f"data.{name} is no text"
    class_names = data.get("class_names", [])
    if not isinstance(class_names, list) or not all(isinstance(n, str) for n in class_names):
        return "data.class_names is no list of texts"
    if not isinstance(record.get("versions", {}), dict):
        return "its versions are no mapping"
    return None


class NoLog:
    """What `MetricsLog` is where another process writes."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, name: str, image: np.ndarray, step: int) -> None: ...

    def close(self) -> None: ...


class MetricsLog:
    """Writes metrics as JSON lines and as TensorBoard events.

    What a killed run wrote beyond `first_step` is dropped, so that a resumed run's log has every
    step once.
    """

    def __init__(self, run: RunDirectory, first_step: int):
        self._run = run
        lines, strange = run._metrics()
        if strange:
            warnings.warn(
                f"{run.shown}/{METRICS}: left out {strange} lines that are no metrics", stacklevel=2
            )
        kept = [line for line in lines if line["step"] <= first_step]
        with _disk_errors(run.shown):
            run._replace(METRICS, "".join(json.dumps(line) + "\n" for line in kept))
            self._lines = (run.path / METRICS).open("a")
            self._events = Events(str(run.path), first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line; values that are not finite become null in JSON."""
        finite = {k: v if np.isfinite(v) else None for k, v in values.items()}
        with _disk_errors(self._run.shown):
            self._lines.write(json.dumps({"step": step, **finite}) + "\n")
            self._lines.flush()
            for name, value in values.items():
                self._events.scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Add an (H, W, C) uint8 picture to the TensorBoard events."""
        with _disk_errors(self._run.shown):
            self._events.picture(name, image, step)

    def close(self) -> None:
        with _disk_errors(self._run.shown), contextlib.closing(self._events):
            self._lines.close()


def check_wandb(project: str | None) -> None:
    """Raise where a project is to be logged to and the package is not installed."""
    if project is not None:
        _import_wandb()


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "logging to Weights & Biases needs its package: pip install 'ganjax[wandb]'"
        ) from error
    return wandb


def wandb_callback(project: str, run: RunDirectory, settings: Mapping[str, Any]) -> Callback:
    """Return a callback that logs a run to Weights & Biases as well.

    It is also the pattern for a logger of one's own: a function of `Progress` on metrics.

    Raises:
      InputError: the package is not installed.
    """
    wandb = _import_wandb()
    session = wandb.init(project=project, name=run.path.name, config=dict(settings))
    # Scores come late and roll-backs go back, while the package's own step only grows.
    session.define_metric("*", step_metric="step")

    def log(progress: Progress) -> None:
        session.log({**progress.metrics, "step": progress.step})

    return Callback(log)


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    import importlib.metadata
    import platform

    packages = ("ganjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def device_name() -> str:
    """Return what the run computes on, such as `8 x NVIDIA H200` or `cpu`."""
    devices = jax.devices()
    return (f"{len(devices)} x " if len(devices) > 1 else "") + devices[0].device_kind


@contextlib.contextmanager
def _disk_errors(where: str) -> Iterator[None]:
    """Turn what an operating system says of a disk into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"writing to {where} failed: {reason}") from error
