"""Files that are nearly good: a reader's seeds, ways to spoil them, and what a reader may do.

A case is named by (reader, seed, number) and is the same each time:
`python tests/fuzzing.py READER SEED FIRST COUNT` runs some in a process of their own and prints
what came of them.
"""

import contextlib
import gzip
import io
import json
import os
import pickletools
import random
import resource
import shutil
import signal
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Files = dict[str, bytes]
SECONDS, BYTES = 10, 2 << 30
WAIT = 6 * SECONDS  # on the wall, where other processes share the machine
NUMBERS = (0, 1, 2, 3, 4, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536, 1 << 24)
NUMBERS = (*NUMBERS, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63)
NAMES = ("../x", "/x", "C:\\x", "..\\x", "a//b", "a/./b", "", ".", "a/", "ü/é", "\udc80", "x" * 300)
NAMES = (*NAMES, "a\0b", "CON", "a\nb", "__MACOSX/a", "train/x", "test/x", "\u202ea")
VALUES = (None, True, False, 0, -1, 1, 1 << 64, 10**400, 0.5, -0.0, float("nan"), float("inf"))
VALUES = (*VALUES, "", "x", "\ud800", [], [[]], [1, "a"], {}, {"type": "gan"}, {"type": []})
FILLINGS = (b"\0", b"\xff", b"9", b"[", b"\x80")
# Instructions of a pickle: tuple, memo, call, dict, mark, list, frozenset, item, state.
INSTRUCTIONS = (b"\x85", b"h\x01", b"R", b"}", b"(", b"l", b"\x91", b"s", b"b")
TYPES = ("|u1", "<f4", ">f8", "<f2", "<f16", "|b1", "<i8", "<c8", "|O", "<U0", "<U9", "|V0", "|S3")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


# Ways to spoil bytes.


def spoil(dice: random.Random, data: bytes) -> bytes:
    """Return bytes that differ from these in one to four places."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        place = dice.randrange(len(data) + 1)
        if dice.random() < 0.4:  # the beginning says what the rest is
            place = min(place, int(dice.expovariate(1 / 30)))
        end = min(len(data), place + int(dice.expovariate(1 / 16)) + 1)
        way = dice.randrange(7)
        if way == 0 and place < len(data):
            data[place] ^= 1 << dice.randrange(8)
        elif way == 1:
            data[place:end] = dice.randbytes(end - place)
        elif way == 2:
            size, order = dice.choice((1, 2, 4, 8)), dice.choice(("little", "big"))
            number = dice.choice(NUMBERS) + dice.choice((-1, 0, 0, 1))
            data[place : place + size] = (number % (1 << 8 * size)).to_bytes(size, order)
        elif way == 3:
            data = data[:place] + (b"" if dice.random() < 0.5 else data[end:])
        elif way == 4:
            data[place:place] = data[place:end] * dice.choice((1, 2, 50))
        elif way == 5:
            other = dice.randrange(len(data) + 1)
            data[place:place] = data[other : other + end - place]
        else:
            data[place:end] = dice.choice(FILLINGS) * dice.choice((1, 40))
    return bytes(data)


def spoil_png(dice: random.Random, data: bytes) -> bytes:
    """Spoil the body of a chunk and give it the checksum that it would have."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    number = dice.randrange(len(chunks))
    kind, body = chunks[number]
    if kind == b"IDAT" and dice.random() < 0.5:
        body = zlib.compress(spoil(dice, zlib.decompress(body)))
    else:
        body = spoil(dice, body)
    chunks[number] = (kind, body)
    if dice.random() < 0.2:
        chunks.insert(dice.randrange(len(chunks)), dice.choice(chunks))
    whole = data[:8]
    for kind, body in chunks:
        checksum = zlib.crc32(kind + body)
        whole += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
    return whole


def spoil_zip(dice: random.Random, data: bytes) -> bytes:
    """Spoil a member, its name or how it is stored."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(entry, archive.read(entry)) for entry in archive.infolist()]
    number = dice.randrange(len(members))
    entry, body = members[number]
    way = dice.randrange(6)
    if way < 3:
        members[number] = entry, spoiled(dice, entry.filename, body)
    elif way == 3:
        members.append((zipfile.ZipInfo(dice.choice(NAMES)[:40] + ".png"), body))
    elif way == 4:
        members.append(dice.choice(members))
        entry.external_attr = dice.choice((0o120777, 0o040755, 0o010644)) << 16
    else:
        entry.compress_type = dice.choice((0, 8, 12, 14))
    file = io.BytesIO()
    with warnings.catch_warnings(), contextlib.suppress(UnicodeEncodeError):
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(file, "w") as archive:
            for entry, body in members:
                archive.writestr(entry, body)
    return file.getvalue()


def spoil_gz(dice: random.Random, data: bytes) -> bytes:
    return gzip.compress(spoiled(dice, "idx", gzip.decompress(data)), 1)


def spoil_idx(dice: random.Random, data: bytes) -> bytes:
    axes = dice.choice((0, 1, 2, 3, 4, 8, 9, 70, 255))
    lengths = [dice.choice(NUMBERS) % (1 << 32) for _ in range(axes)]
    return b"\0\0\x08" + bytes([axes]) + struct.pack(f">{axes}I", *lengths) + data[16:]


def spoil_npy(dice: random.Random, data: bytes) -> bytes:
    """Give an array another shape or type than it has."""
    shape = tuple(dice.choice(NUMBERS) for _ in range(dice.choice((0, 1, 3, 4, 4, 40, 70))))
    header = {"descr": dice.choice(TYPES), "fortran_order": dice.random() < 0.5, "shape": shape}
    text = repr(header)
    if dice.random() < 0.3:
        text = dice.choice((text[:-1] + "L}", "{" * 90 + text, text[:20], "[]", "0", text + "#"))
    if dice.random() < 0.3:
        text = spoil(dice, text.encode()).decode("latin1")
    text = text.encode("latin1")[:60000] + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data[128:]


def spoil_json(dice: random.Random, data: bytes) -> bytes:
    """Change a value somewhere in the tree, or the text."""
    try:
        tree = [json.loads(data)]
    except ValueError:
        return spoil(dice, data)
    for _ in range(dice.choice((1, 1, 3))):
        places = list(_places(tree))
        parent, key = dice.choice(places)
        way = dice.randrange(5)
        if way < 3:
            parent[key] = dice.choice(VALUES)
        elif way == 3 and (isinstance(parent, dict) or len(parent) > 1):
            del parent[key]
        elif isinstance(parent, dict):
            parent[f"{key}s"] = dice.choice(VALUES)
        else:
            parent[key] = [parent[key]]
    text = json.dumps(tree[0] if tree else None)
    way = dice.randrange(12)
    if way == 0:
        return text.replace("{", '{"name": 1, "name": 2, ', 1).encode()
    if way == 1:
        depth = dice.choice((90, 110, 900, 100_000))
        return text.replace("1", "[" * depth + "1" + "]" * depth, 1).encode()
    if way == 2:
        return text.encode(dice.choice(("utf-16", "utf-32", "utf-8-sig", "cp500")))
    if way == 3:
        return text.replace("1", "1" * 5000, 1).replace("0.", "1e999", 1).encode()
    return text.encode()


def _places(tree: Any):
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def spoil_lines(dice: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    number = dice.randrange(len(lines))
    lines[number] = spoil_json(dice, lines[number])
    return b"\n".join(lines)


def spoil_safetensors(dice: random.Random, data: bytes) -> bytes:
    (size,) = struct.unpack("<Q", data[:8])
    header = spoil_json(dice, data[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def spoil_pickle(dice: random.Random, data: bytes) -> bytes:
    """Delete, repeat or move whole instructions of a pickle."""
    with contextlib.suppress(Exception):
        places = [place for _, _, place in pickletools.genops(data)]
        for _ in range(dice.choice((1, 2, 4))):
            first, last = sorted(dice.choices(range(len(places)), k=2))
            target = dice.choice(places)
            part = data[places[first] : places[min(last, first + 5)]]
            if dice.random() < 0.3:
                part = dice.choice(INSTRUCTIONS) * 60
            data = data[:target] + part + data[target + dice.choice((0, len(part))) :]
    return data


def spoiled(dice: random.Random, name: str, data: bytes) -> bytes:
    """Spoil a file: anywhere, or within what its name says that it is."""
    way = next((way for ending, way in SPOILERS.items() if name.endswith(ending)), spoil)
    if dice.random() < 0.4:
        way = spoil
    try:
        return way(dice, data)
    except Exception:
        return spoil(dice, data)  # of what was spoiled before


SPOILERS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    ".png": spoil_png,
    ".zip": spoil_zip,
    ".npz": spoil_zip,
    ".pth": spoil_zip,
    ".gz": spoil_gz,
    "ubyte": spoil_idx,
    "idx": spoil_idx,
    ".npy": spoil_npy,
    ".json": spoil_json,
    ".jsonl": spoil_lines,
    ".safetensors": spoil_safetensors,
    ".pkl": spoil_pickle,
}


# Cases.


class Outcome(NamedTuple):
    """What became of a case: "valid", "sentence", or what went wrong; and the seconds it took.

    Seconds are the processor's: those on the wall depend on what else a machine does.
    """

    number: int
    what: str
    seconds: float


class Hang(BaseException):
    """A case has not ended in time; no reader may catch it."""


def run_case(reader: str, seed: int, number: int, room: Path) -> Outcome:
    """Spoil a seed of a reader, let it read, and remove the files."""
    import fuzz_readers

    from ganjax.types import InputError

    seeds, call = fuzz_readers.READERS[reader]
    dice = random.Random(f"{reader} {seed} {number}")
    files = dict(dice.choice(seeds()))
    for _ in range(dice.choice((1, 1, 2))):
        name = dice.choice(sorted(files))
        files[name] = spoiled(dice, name, files[name])
    if dice.random() < 0.02:
        files[name] = dice.randbytes(dice.choice((0, 1, 10, 1000)))
    folder = room / "case"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            # A warning is allowed, and so is an error in its place.
            warnings.simplefilter("error" if number % 2 else "ignore")
            call(folder, dice)
        what = "valid"
    except InputError as error:
        what, text = "sentence", str(error)
        if folder.name not in text or "\n" in text or len(text) > 2000:
            what = f"no good sentence: {text[:2000]!r}"
    except (Exception, Hang) as error:
        what = f"{type(error).__name__}: {error}"[:500]
        frame = error.__traceback__
        while frame.tb_next:
            frame = frame.tb_next
        what += f" ({frame.tb_frame.f_code.co_filename}:{frame.tb_lineno})"
    seconds = time.process_time() - start
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if left != set(files):
        what = f"files have changed: {sorted(left ^ set(files))}"
    for name in left:
        (folder / name).unlink()  # its folders are used again
    return Outcome(number, what, seconds)


FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
FORBIDDEN = (*FORBIDDEN, "pickle.find_class", "socket.connect", "socket.bind", "os.symlink")


def watched(done: list[str]) -> None:
    """Note what no reader may do, for the rest of the process: run, connect or write anything."""

    def watch(event: str, arguments: tuple) -> None:
        writes = event == "open" and arguments[2] & WRITING
        if done[0] == "reading" and (event in FORBIDDEN or writes):
            done.append(f"{event} {arguments!r}"[:300])

    sys.addaudithook(watch)


def main(reader: str, seed: str, first: str, count: str) -> None:
    """Run cases in the working directory, which has to be empty, and print a summary as JSON."""
    room = Path.cwd()
    resource.setrlimit(resource.RLIMIT_DATA, (2 * BYTES, 2 * BYTES))  # for the machine's sake

    def hang(*_):
        raise Hang(f"no end after {WAIT} seconds")

    signal.signal(signal.SIGALRM, hang)
    done: list[str] = [""]
    watched(done)
    numbers = range(int(first), int(first) + int(count))
    run_case(reader, int(seed), numbers[0], room)  # imports what it needs
    counts, faults, slowest, peak = {"valid": 0, "sentence": 0}, [], 0.0, _peak_bytes()
    for number in numbers:
        print(number, file=sys.stderr)  # the last line names a case that ends the process
        signal.setitimer(signal.ITIMER_REAL, WAIT)
        done[0] = "reading"
        outcome = run_case(reader, int(seed), number, room)
        signal.setitimer(signal.ITIMER_REAL, 0)
        actions = [action for action in done[1:] if "/case/" not in action]
        done[:] = [""]
        slowest = max(slowest, outcome.seconds)
        if outcome.what in counts:
            counts[outcome.what] += 1
        else:
            faults.append([number, outcome.what])
        if outcome.seconds > SECONDS:
            faults.append([number, f"{outcome.seconds:.1f} seconds"])
        if actions:
            faults.append([number, actions[0]])
        if _peak_bytes() > max(peak, BYTES):
            faults.append([number, f"{_peak_bytes() >> 20} MiB of memory"])
        peak = _peak_bytes()
    shutil.rmtree(room / "case")
    stray = sorted(path.name for path in room.iterdir())
    if stray:
        faults.append([-1, f"files outside of the case: {stray}"])
    summary = {"valid": counts["valid"], "sentences": counts["sentence"], "faults": faults}
    print(json.dumps(summary | {"slowest_seconds": slowest, "peak_mib": peak / (1 << 20)}))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
