"""Keeping Orbax's noise off the terminal and out of memory: what fails is raised as a sentence."""

import contextlib
import ctypes
import gc
import logging
import os
import re
import sys
import time
import traceback
import warnings


def ask_for_no_metrics() -> None:
    """Keep Orbax from asking TensorStore for its metrics, which are never given back.

    Each save and restore would leave some 9 kB (tensorstore 0.1; `benchmarks/soak.py` shows it).
    """
    with contextlib.suppress(ImportError, AttributeError):  # another version of Orbax
        from orbax.checkpoint._src.serialization import tensorstore_utils

        _ = tensorstore_utils.get_tensorstore_raw_bytes
        tensorstore_utils.get_tensorstore_raw_bytes = lambda *_: 0


def bound_file_threads(limit: int = 16) -> None:
    """Have TensorStore read and write files with so many threads at once, not 128.

    A thread of it ends only after 20 idle seconds, so that frequent saves keep adding to them, and
    to the memory they hold. On a disk, saves of 0.8 GB and of 600 small arrays took as long. What
    is kept in OCDBT, as ganjax does in buckets, where many requests at once help, is left alone.
    """
    with contextlib.suppress(ImportError, AttributeError):  # another version of Orbax
        from orbax.checkpoint._src.serialization import tensorstore_utils

        tensorstore_utils._BASE_TS_CONTEXT["file_io_concurrency"] = {"limit": limit}


def share_memory_arenas() -> None:
    """Have all threads of this process allocate from two arenas, where glibc would make many.

    Threads of saves come and go and leave holes in whichever arena they were given: over thousands
    of checkpoints resident memory creeps up by percents though nothing is kept. Not done where
    MALLOC_ARENA_MAX says otherwise, nor by the library: it is for whoever owns the process.
    """
    arena_max = -8  # of malloc.h
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
            ctypes.CDLL(None).mallopt(arena_max, 2)


def settle() -> None:
    """Give what Orbax abandoned at a failure the time to say so, unheard."""
    time.sleep(0.05)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        gc.collect()  # coroutines that were never awaited


def quiet_leftovers() -> None:
    """Keep what Orbax abandons at a first failure from printing its own later, for good.

    Writes end in threads of their own, and some of it is collected only with the process.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(is_wanted)
    before = sys.unraisablehook
    if getattr(before, "without_leftovers", False):
        return

    def hook(unraisable) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        is_orbax = code is not None and "orbax" in code.co_filename
        if not is_orbax and "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    hook.without_leftovers = True
    sys.unraisablehook = hook


def is_wanted(record: logging.LogRecord) -> bool:
    """Drop the tracebacks that Orbax logs of background failures: `wait` raises those again."""
    text = str(record.msg)
    if "Skipping merge of OCDBT" in text:  # there is none on a disk, see `ganjax.checkpoint`
        return False
    failed = re.match(r"\[process=(%s|\d+)\] Failed to run", text) or "_SignalingThread" in text
    if failed and "orbax" in record.pathname:
        return False
    # Of a save whose one thread was quicker than another, and of a failed one.
    internal = ("Metadata file does not exist", "Failed to write metadata")
    if text.startswith(internal) and "orbax" in record.pathname:
        return False
    # One of several writes that failed together: asyncio says so whenever it is collected.
    if record.exc_info and "Event loop is closed" in str(record.exc_info[1]):
        return False
    if "exception was never retrieved" not in text:
        return True
    where = record.getMessage()
    if record.exc_info and record.exc_info[2]:
        where += "".join(frame.filename for frame in traceback.extract_tb(record.exc_info[2]))
    return "orbax" not in where
