"""One run trained by several processes: starting them, and noticing when one of them is lost.

The command that a person or a scheduler starts on each machine is a supervisor. It imports no
device: it starts the training as a child, passes signals on, and tells the other supervisors
through small files in the run directory that its child is well. So a child that is killed, that JAX
aborts because another one is gone, or that stands still ends everywhere in a sentence, within a
time that is known, and with an exit code that a scheduler can start again on.
"""

import contextlib
import dataclasses
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from ganjax.types import InputError

LOST = 75  # what sysexits.h calls a temporary failure: start again
CRASHED = 70  # what sysexits.h calls an internal error: one that nobody has foreseen
FOLDER = "processes"
_BEFORE_A_RUN = ("lock", "config.json.new", FOLDER)
_PIPE = "GANJAX_SUPERVISOR_PIPE"
_BEAT_SECONDS = 1.0
_REMOTE_SECONDS = 5.0  # between statuses in a bucket, which takes one a second of an object
# How long a child may take to end by itself once another one has ended badly.
_GRACE_SECONDS = 10.0
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
# Stopped by a signal, and saved: all of them, at the same step.
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """How a command becomes one of several processes; see docs/reliability.md."""

    coordinator: str | None = None
    """HOST:PORT of process 0, the same in every process."""
    num_processes: int | None = None
    """How many processes train together; found out under SLURM, Open MPI and on TPU pods."""
    process_id: int | None = None
    """Which one this is, from 0."""
    patience_seconds: float = 60.0
    """How long a process may not answer before the others end; in a bucket 20 at least."""


def several(options: ProcessOptions) -> bool:
    """Return whether a command is to be one of several processes.

    Raises:
      InputError: some of the three flags are missing, or make no sense.
    """
    flags = (options.coordinator, options.num_processes, options.process_id)
    if options.num_processes == 1 and flags[2] in (None, 0):
        return False
    if not 2 <= options.patience_seconds <= 1e6:
        raise InputError(
            f"--patience-seconds has to be 2 to 1000000, got {options.patience_seconds}"
        )
    if flags == (None, None, None):
        return _in_a_cluster(os.environ)
    if None in flags:
        raise InputError(
            "several processes need all of --coordinator HOST:PORT, --num-processes and "
            "--process-id, or none of them under SLURM, Open MPI or on a TPU pod"
        )
    host, _, port = options.coordinator.rpartition(":")
    if options.num_processes < 1:
        raise InputError(f"--num-processes has to be 1 or more, got {options.num_processes}")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InputError(
            f"--coordinator is {options.coordinator!r}, expected HOST:PORT of process 0"
        )
    if not 0 <= options.process_id < options.num_processes:
        raise InputError(
            f"--process-id is {options.process_id}, expected 0 to {options.num_processes - 1}"
        )
    return True


def _in_a_cluster(environment: Mapping[str, str]) -> bool:
    """Return whether a scheduler has started several processes that JAX can find by itself."""
    if all(name in environment for name in _SLURM):
        return int(environment["SLURM_NTASKS"]) > 1
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    return "," in hosts


def _place_in_a_cluster(environment: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return which process a scheduler says that this is, and of how many; None where unsaid."""
    for rank, count in (
        ("SLURM_PROCID", "SLURM_NTASKS"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ):
        if environment.get(rank, "").isdigit() and environment.get(count, "").isdigit():
            return int(environment[rank]), int(environment[count])
    return None, None


def is_child() -> bool:
    """Return whether a supervisor has started this process."""
    return _PIPE in os.environ


def join(options: ProcessOptions) -> None:
    """Become one of several processes; before anything asks for a device.

    Raises:
      InputError: the others could not be reached.
    """
    import jax

    pipe = int(os.environ[_PIPE])
    # These go to every process of a terminal; the supervisor decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_beat, args=(pipe,), daemon=True).start()
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            # The supervisors notice first, and have a sentence for it.
            heartbeat_timeout_seconds=int(2 * options.patience_seconds) + 10,
            # The first one scores what was trained while the others are done.
            shutdown_timeout_seconds=24 * 3600,
        )
    except (RuntimeError, ValueError) as error:
        where = options.coordinator or "the coordinator"
        raise InputError(
            f"{where} did not bring the processes together ({' '.join(str(error).split())[:200]}); "
            "start as many as --num-processes says, each with its own --process-id"
        ) from error


def announce() -> None:
    """Tell the supervisor which process this is, and of which start, once devices may be asked for.

    Nothing where there is no supervisor.
    """
    if not is_child():
        return
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    # Statuses of another start are nobody's business here.
    own = np.int32(secrets.randbelow(1 << 31))
    start = int(multihost_utils.broadcast_one_to_all(own))
    said = [jax.process_index(), jax.process_count(), start]
    os.write(int(os.environ[_PIPE]), json.dumps(said).encode() + b"\n")


def _beat(pipe: int) -> None:
    while True:
        try:
            os.write(pipe, b"\n")
        except OSError:  # the supervisor is gone
            os._exit(LOST)
        time.sleep(_BEAT_SECONDS)


def supervise(arguments: Sequence[str], run: str | os.PathLike, options: ProcessOptions) -> int:
    """Run a command in a child process, watch it and the other supervisors; return its exit code.

    Args:
      arguments: of the command line.
      run: the run directory, which every process sees.
      options: which process this is.

    Raises:
      InputError: this process of the run is already running.
    """
    path = epath.Path(os.path.expanduser(os.fspath(run)))
    if options.process_id is not None:
        _check_free(path / FOLDER / str(options.process_id), options)
    return _Supervisor(arguments, path, options).watch()


def is_new(run: epath.Path) -> bool:
    """Return whether a run may begin there: nothing, or what was killed before it had begun."""
    return not run.exists() or (
        run.is_dir() and all(path.name in _BEFORE_A_RUN for path in run.iterdir())
    )


def _status_seconds(path: epath.Path) -> float:
    """Return the least time between two statuses."""
    return _REMOTE_SECONDS if "://" in os.fspath(path) else 0.0


def _check_free(path: epath.Path, options: ProcessOptions) -> None:
    """Raise where this process of the run is already running: a second one would end them all."""
    other = _Other(path)
    if other.status.get("state") != "running":
        return
    time.sleep(3 * _BEAT_SECONDS + _status_seconds(path))
    other.look()
    if other.changed is not None and other.status.get("state") == "running":
        raise InputError(
            f"process {options.process_id} of this run is already running ({other.where}); "
            "stop it first, or choose another --process-id"
        )


class _Supervisor:
    def __init__(self, arguments, run: epath.Path, options: ProcessOptions):
        self._folder, self._run = run / FOLDER, run
        # A training refuses another's folder: nothing is left in it.
        self._writes = (run / "config.json").exists() or is_new(run)
        self._seconds = _status_seconds(run)
        self._patience = max(options.patience_seconds, 4 * self._seconds)
        self._id, self._count = options.process_id, options.num_processes
        if self._id is None:
            self._id, self._count = _place_in_a_cluster(os.environ)
        self._beats = 0
        self._others: dict[int, _Other] = {}
        self._signal: int | None = None
        self._noticed = 0.0
        self._child: subprocess.Popen | None = None
        self._start: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._pass_on)
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "ganjax.cli", *arguments],
            env={**os.environ, _PIPE: str(theirs)},
            pass_fds=[theirs],
        )
        os.close(theirs)
        if self._signal is not None:  # it came before there was a child
            self._child.send_signal(signal.SIGTERM)
        self._heard = time.monotonic()

    def _pass_on(self, number, frame) -> None:
        del frame
        first, now = self._signal is None, time.monotonic()
        if not first and number != signal.SIGINT and now - self._noticed < 1.0:
            return  # a shell and the system both tell of a closed terminal
        self._signal, self._noticed = number, now
        if self._child is not None:
            # JAX makes all processes stop at the same step on a SIGTERM to one of them.
            self._child.send_signal(signal.SIGTERM if first else signal.SIGKILL)

    def watch(self) -> int:
        looked, told = time.monotonic(), -math.inf
        while self._child.poll() is None:
            time.sleep(_BEAT_SECONDS / 2)
            if (now := time.monotonic()) - looked > 4 * _BEAT_SECONDS + self._seconds:
                # This process itself stood still, and with it its child or its machine.
                self._heard = now
                for other in self._others.values():
                    other.excuse()
            looked = now
            self._listen()
            silent = time.monotonic() - self._heard
            if silent > self._patience and self._start is not None:
                return self._lose(f"{self._name()} has not answered for {silent:.0f} s")
            if self._id is not None and now - told >= self._seconds:
                told = now
                self._write(state="running")
                if lost := self._lost():
                    return self._lose(lost)
        return self._ended(self._child.returncode)

    def _listen(self) -> None:
        """Take what the child has said: lines that are empty, and once which process it is."""
        try:
            said = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return
        if said:
            self._heard = time.monotonic()
        for line in filter(None, said.splitlines()):
            self._id, self._count, self._start = json.loads(line)

    def _write(self, **status: Any) -> None:
        if not self._writes:
            return
        self._beats += 1
        about = {"host": socket.gethostname(), "pid": self._child.pid, "beats": self._beats}
        text = json.dumps({**about, "start": self._start, **status})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / str(self._id)
            new = path.with_name(f"{path.name}.new")
            new.write_text(text)
            new.replace(path)
        except OSError:
            pass  # a disk that is full or gone: the training itself says so

    def _lost(self) -> str | None:
        """Return a sentence on another process that is lost, or None."""
        for number in range(self._count or 0):
            if number != self._id:
                other = self._others.setdefault(number, _Other(self._folder / str(number)))
                other.look()
                if why := other.lost(self._patience, self._start):
                    return f"process {number} of {self._count} {why}"
        return None

    def _lose(self, why: str) -> int:
        """End the child because of a process that is lost; it may have a sentence of its own."""
        mine = why.startswith(self._name())
        deadline = time.monotonic() + (0 if mine else _GRACE_SECONDS)
        while self._child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        code = self._child.poll()
        if code is not None and code >= 0 and code != CRASHED:
            return self._end(code)
        self._child.kill()
        self._child.wait()
        return self._end(LOST, why)

    def _ended(self, code: int) -> int:
        if code == 128 + signal.SIGTERM and self._signal is not None:
            code = 128 + self._signal  # what the child was told is SIGTERM
        if code >= 0 and code != CRASHED:
            return self._end(code)
        if self._signal is not None:
            return self._end(128 + self._signal, f"{self._name()} stopped before it could save")
        name = "an error" if code == CRASHED else signal.Signals(-code).name
        if code in (CRASHED, -signal.SIGABRT) and self._count:
            # Where another one is gone, JAX raises or aborts: that is the one to name.
            deadline = time.monotonic() + min(self._patience, _GRACE_SECONDS)
            while time.monotonic() < deadline:
                time.sleep(_BEAT_SECONDS / 2)
                if (lost := self._lost()) and not lost.endswith(name):
                    return self._end(LOST, lost)
            quiet = 4 * _BEAT_SECONDS + self._seconds
            silent = [n for n, other in self._others.items() if other.silent > quiet]
            if silent:
                return self._end(LOST, f"process {silent[0]} of {self._count} does not answer")
        if code == CRASHED:
            return self._end(code, f"{self._name()} was ended by {name}")
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        return self._end(LOST, f"{self._name()} was ended by {name}{memory}")

    def _end(self, code: int, why: str | None = None) -> int:
        if self._id is not None:
            name = f"{self._name()} "
            own = why.removeprefix(name) if why is not None and why.startswith(name) else None
            self._write(state="ended", code=code, why=own)
        if why is not None:
            shown = self._run if "://" in os.fspath(self._run) else os.path.relpath(self._run)
            advice = (
                f"; go on from the last checkpoint by `ganjax resume {shown}` with the flags of "
                "all processes"
            )
            there = (self._run / "config.json").exists()
            with contextlib.suppress(OSError):  # nobody reads it
                print(f"ganjax: {why}{advice if there else ''}", file=sys.stderr, flush=True)
        return code

    def _name(self) -> str:
        return f"process {self._id} of {self._count}"


class _Other:
    """What is known of another supervisor by its file.

    Attributes:
      status: what the file says; an earlier start may have left it.
      changed: when it was last seen to change, or None.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self.status = self._read()
        self.changed: float | None = None

    def _read(self) -> dict[str, Any]:
        try:
            status = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def look(self) -> None:
        status = self._read()
        if status and status != self.status:
            self.status, self.changed = status, time.monotonic()

    def excuse(self) -> None:
        """Begin to wait for it anew."""
        if self.changed is not None:
            self.changed = time.monotonic()

    @property
    def silent(self) -> float:
        """Seconds since its file has changed; 0 where it never has."""
        return 0.0 if self.changed is None else time.monotonic() - self.changed

    @property
    def where(self) -> str:
        return f"{self.status.get('host')}, pid {self.status.get('pid')}"

    def lost(self, patience: float, start: int | None) -> str | None:
        """Return why it is lost, or None: it is well, or of another start, or has not come yet.

        Before they have come together the start of both is None. JAX waits for what has not come,
        and gives up.
        """
        if self.changed is None or self.status.get("start") != start:
            return None
        if self.status.get("state") == "ended":
            code = self.status.get("code")
            if code == 0 or (code in STOPPED and not self.status.get("why")):
                return None
            why = self.status.get("why") or f"ended with exit code {code}, and says why"
            return f"({self.where}) {why}"
        if self.silent > patience:
            return f"({self.where}) has not answered for {self.silent:.0f} s"
        return None
