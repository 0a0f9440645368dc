"""TensorBoard's event files.

With tensorboardX's file format and not its `SummaryWriter`: the thread of that ends at the first
error of a disk with a traceback, and ten events later whoever adds one waits for ever.
"""

import math
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

FLUSH_SECONDS = 30.0


class Events:
    """One file of events, written by a thread; what it meets is raised by what is called next.

    Args:
      folder: an existing one, where the file goes.
      first_step: what earlier files hold beyond it is not shown any more.

    Raises:
      OSError: from any method: the file cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, first_step: int):
        self._format = _import_format()
        self._file = self._format.event_file_writer.EventsWriter(os.path.join(folder, "events"))
        self._thread = ThreadPoolExecutor(1, "ganjax-events")
        self._last: Future | None = None
        self._flush_at = 0.0
        start = self._format.proto.event_pb2.SessionLog(status=1)  # START
        self._add(step=first_step + 1, session_log=start)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one value, where it is finite."""
        if math.isfinite(value):
            self._add(step=step, summary=self._format.summary.scalar(name, value))

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Add an (H, W, C) uint8 picture."""
        picture = self._format.summary.image(name, image, dataformats="HWC")
        self._add(step=step, summary=picture)

    def close(self) -> None:
        """Write what has not been written yet."""
        self._thread.shutdown()
        file, self._file = self._file, None  # also where it cannot be closed
        if file is not None:
            file.close()

    def _add(self, **fields: Any) -> None:
        if self._last is not None and self._last.done():
            self._last.result()
        event = self._format.proto.event_pb2.Event(wall_time=time.time(), **fields)
        self._last = self._thread.submit(self._write, event)

    def _write(self, event: Any) -> None:
        self._file.write_event(event)
        if time.monotonic() >= self._flush_at:
            self._flush_at = time.monotonic() + FLUSH_SECONDS
            self._file.flush()


def _import_format() -> Any:
    """Import tensorboardX, which imports PyTorch if it can: a second for nothing that is used."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # as if it were not installed
    try:
        import tensorboardX.event_file_writer
        import tensorboardX.proto.event_pb2
        import tensorboardX.summary
    finally:
        if hidden:
            del sys.modules["torch"]
    return tensorboardX
