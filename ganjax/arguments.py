"""What the commands share: reading arguments, and refusing bad ones with one sentence."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganjax.types import InputError

PROGRAM = "ganjax"


def check_flags(arguments: list[str], known: Sequence[str]) -> None:
    """Answer a mistyped flag with one sentence and the nearest right one."""
    from ganjax import plain

    spelled = {name.replace("_", "-"): name for name in known}
    for argument in arguments:
        if not argument.startswith("--") or argument == "--help":
            continue
        name = argument[2:].split("=", 1)[0].replace("_", "-")
        bare = ".".join(part.removeprefix("no-") for part in name.split("."))
        if name not in spelled and bare not in spelled:
            raise InputError(plain.unknown_field(name, list(spelled)))


def read(arguments: list[str], options: type, name: str, positional: str) -> tuple[str, Any]:
    """Return the one positional argument and the options of a command."""
    from ganjax import plain

    first = next((a for a in arguments[:1] if not a.startswith("-")), None)
    wants_help = "-h" in arguments or "--help" in arguments
    if first is None and not wants_help:
        raise InputError(f"expected `{PROGRAM} {name} {positional} ...`; see --help")
    rest = arguments[1:] if first else arguments
    check_flags(rest, plain.field_names(options()))
    prog = f"{PROGRAM} {name} {first or positional}"
    return first or "", parse(options, rest, prog=prog)


def parse(options: type, arguments: Sequence[str], **settings: Any) -> Any:
    """Read options with tyro, and make one sentence of the box that it prints of an error."""
    import tyro

    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(options, args=list(arguments), **settings)
    except SystemExit as end:
        if not end.code:
            raise
        # A title, what is wrong, a line across, and help.
        lines = [line.strip(" │╭╮╰╯─-+|") for line in printed.getvalue().strip().splitlines()[1:]]
        lines = lines[1:] if lines and not lines[0] else lines
        wrong = lines[: lines.index("")] if "" in lines else lines
        raise InputError(" ".join(wrong)) from end


def check_numbers(options: Any, **least: int) -> None:
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} has to be {bound} or more, got {value}")
    seed = getattr(options, "seed", None)
    if seed is not None and not -(1 << 31) <= seed < 1 << 32:
        raise InputError(f"--seed has to be -2^31 to 2^32 - 1, got {seed}")
    truncation = getattr(options, "truncation", None)
    # 0 is the mean of styles; `Trained.sample` refuses it where there are none.
    if truncation is not None and not truncation >= 0:
        raise InputError(f"truncation has to be positive, got {truncation}")


def parse_labels(text: str | None) -> list[str] | None:
    """Return the classes of --labels, names or numbers: which they are the model knows."""
    return None if text is None else [part.strip() for part in text.split(",")]


def parse_values(name: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 <= value < 3e38 for value in values):  # float32
        raise InputError(
            f"the values of {name} are numbers such as 0.01,0.1,1, each 0 or more; got {text!r}"
        )
    return values


def kind_of(out: str, allowed: Sequence[str]) -> str:
    kind = Path(out).suffix.lower()
    if kind not in allowed:
        endings = ", ".join(ending or "none (a folder)" for ending in allowed)
        raise InputError(f"--out {out} ends in {kind or 'nothing'}; endings it knows: {endings}")
    return kind


def write_output(out: str, write: Callable[[str], Any]) -> None:
    try:
        if "://" not in out:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
        write(out)
    except OSError as error:
        raise InputError(f"{out} could not be written: {error.strerror or error}") from error
