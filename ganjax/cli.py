"""The command line: one function a command, `COMMANDS` names them."""

import contextlib
import dataclasses
import difflib
import inspect
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganjax.types import InputError

PROGRAM = "ganjax"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 bad input, 1 diverged, 130 or 143 stopped and saved."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_run(arguments))
    except InputError as error:
        _say(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"{PROGRAM} {version('ganjax')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `{PROGRAM} {near[0]}`?" if near else f"see `{PROGRAM} --help`"
        raise InputError(f"there is no command {name!r}; {hint}")
    _set_up_jax()
    from ganjax import loop

    try:
        return COMMANDS[name](rest) or 0
    except loop.DivergedError as error:
        _say(str(error))
        return 1
    except loop.StoppedError as error:
        return 128 + error.signal_number


def _say(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def _overview() -> str:
    lines = [
        f"usage: {PROGRAM} COMMAND ...",
        "",
        "Train generative adversarial networks, and use what was trained.",
        "",
    ]
    for name, function in COMMANDS.items():
        lines.append(f"  {name:<12} {inspect.getdoc(function).splitlines()[0]}")
    lines += [
        "",
        f"`{PROGRAM} COMMAND --help` explains each of them.",
        "",
        "Start with:  ganjax train quickstart",
    ]
    return "\n".join(lines)


def _set_up_jax() -> None:
    """Keep compiled programs on disk, so that the second start is quick."""
    import jax

    if jax.config.jax_compilation_cache_dir is None and not os.environ.get("GANJAX_NO_CACHE"):
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        folder = Path(home) / "ganjax" / "compiled"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # a home that cannot be written costs time, nothing else
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _use_platform(name: str | None) -> None:
    if name is None:
        return
    import jax

    names = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}
    if name not in names:
        raise InputError(f"train.platform is {name!r}, expected cpu, gpu or tpu")
    try:
        jax.config.update("jax_platforms", names[name])
        jax.devices()
    except RuntimeError as error:
        raise InputError(
            f"the platform {name!r} is not there: this JAX sees none of its devices; leave "
            "--train.platform out, or install JAX for it"
        ) from error


def _check_flags(arguments: list[str], known: Sequence[str]) -> None:
    """Answer a mistyped flag with one sentence and the nearest right one."""
    from ganjax import config

    spelled = {name.replace("_", "-"): name for name in known}
    for argument in arguments:
        if not argument.startswith("--") or argument == "--help":
            continue
        name = argument[2:].split("=", 1)[0].replace("_", "-")
        bare = ".".join(part.removeprefix("no-") for part in name.split("."))
        if name not in spelled and bare not in spelled:
            raise InputError(config.unknown_field(name, list(spelled)))


def train(arguments: list[str]) -> int:
    """Train a configuration: a file with get_config(), or the name of a shipped one.

    Every field of the configuration can be set: `ganjax train quickstart --train.steps 500`.
    """
    import tyro

    from ganjax import config
    from ganjax import train as training
    from ganjax.build import build
    from ganjax.report import print_plan

    if not arguments or arguments[0] in ("-h", "--help"):
        print(_train_manual(config.shipped()))
        return 0 if arguments else 2
    name, *rest = arguments
    if name.startswith("-"):
        raise InputError(f"the configuration comes first: {PROGRAM} train CONFIG {name} ...")
    settings = config.load_file(name)

    @dataclasses.dataclass(frozen=True)
    class Options(type(settings)):  # the configuration's own fields and those of the command
        run_directory: str | None = None
        """Where to write; by default runs/NAME, with a number where that exists."""
        dry_run: bool = False
        """Print the resolved configuration, parameters and FLOPs, and stop."""

    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    default = Options(**values)
    _check_flags(rest, config.field_names(default))
    options = _parse(
        Options,
        rest,
        default=default,
        prog=f"{PROGRAM} train {name}",
        description=_describe(settings, name),
        config=(tyro.conf.AvoidSubcommands,),
    )
    settings = type(settings)(**{name: getattr(options, name) for name in values})
    _use_platform(settings.train.platform)
    if options.dry_run:
        print_plan(build(settings))
        return 0
    directory = options.run_directory or _free_directory(settings.name)
    return _go(directory, lambda report: training.train(settings, directory, report), settings.name)


def _go(directory, start, name) -> int:
    from ganjax import loop
    from ganjax.report import Console, print_result
    from ganjax.run import RunDirectory

    shown = RunDirectory(directory).shown
    console = Console()
    console.note(f"run directory: {shown}")
    try:
        result = start(console)
    except loop.StoppedError as error:
        cause = signal.Signals(error.signal_number).name
        _say(f"{cause}: saved step {error.step}; continue with `{PROGRAM} resume {shown}`")
        raise
    print_result(result, name)
    return 0


def _free_directory(name: str) -> str:
    base, number = Path("runs") / name, 1
    path = base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return str(path)


def _describe(settings: Any, name: str) -> str:
    return (
        f"Train {name} ({type(settings.model).__name__} of "
        f"{type(settings.model.network).__name__}). Every field below can be overridden."
    )


def _train_manual(shipped: dict[str, Path]) -> str:
    lines = [
        f"usage: {PROGRAM} train CONFIG [--FIELD VALUE ...] [--run-directory DIR] [--dry-run]",
        "",
        inspect.getdoc(train),
        "",
        "  --run-directory DIR   where to write; by default runs/NAME, numbered where that exists",
        "  --dry-run             print the resolved configuration, parameters and FLOPs, and stop",
        "",
        f"`{PROGRAM} train CONFIG --help` lists every field of a configuration with its default.",
        "",
        "Shipped configurations:",
    ]
    for name, path in shipped.items():
        first = path.read_text().lstrip('"').splitlines()[0]
        lines.append(f"  {name:<24} {first}")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class ResumeOptions:
    """Go on with a run from its latest sound checkpoint, exactly where it was.

    `ganjax resume runs/quickstart --train.steps 20000` trains it further than it was started for.
    """

    train: "ResumeTrain" = dataclasses.field(default_factory=lambda: ResumeTrain())


@dataclasses.dataclass(frozen=True)
class ResumeTrain:
    """How far to train."""

    steps: int | None = None
    """Train until this step; by default what the run was started with."""


def resume(arguments: list[str]) -> int:
    """Go on with a run from its latest checkpoint, exactly where it was."""
    run, options = _read(arguments, ResumeOptions, "resume", "RUN")
    from ganjax import config
    from ganjax import train as training
    from ganjax.run import RunDirectory

    settings = config.from_json(RunDirectory(run).record()["config"])
    _use_platform(settings.train.platform)
    return _go(run, lambda report: training.resume(run, options.train.steps, report), settings.name)


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Generate samples from a run.

    The ending of --out decides what is written: .png a grid, .npz an array `samples` (N, H, W, C)
    float32 in [-1, 1], and a name without ending a folder of single PNGs.

    `ganjax sample runs/quickstart --num 64 --seed 3 --truncation 0.8 --out grid.png`
    """

    num: int = 64
    """How many samples."""
    seed: int = 0
    """Of the latents."""
    truncation: float | None = None
    """Draw latents beyond this again: less variety, more typical samples."""
    labels: str | None = None
    """Classes by number, such as 0,1,2, taken in turn; by default all in turn."""
    out: str = "samples.png"
    """What to write: a .png, a .npz, or a folder."""
    columns: int | None = None
    """Columns of the grid."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def sample(arguments: list[str]) -> int:
    """Generate samples from a run, as a grid, single pictures or an array."""
    run, options = _read(arguments, SampleOptions, "sample", "RUN")
    import jax
    import numpy as np

    from ganjax import build, pictures, train

    kind = _kind_of(options.out, (".png", ".npz", ""))
    _check_numbers(options, num=1, columns=1)
    trained = build.load(run, options.step)
    samples = trained.sample(
        jax.random.key(options.seed),
        options.num,
        _labels(options.labels),
        truncation=options.truncation,
        ema=options.ema,
    )
    is_points = samples.ndim != 4
    if kind == ".npz":
        _write(options.out, lambda path: np.savez(path, samples=samples))
    elif is_points:
        _write(options.out, lambda path: train.draw(samples, 0, path))
    elif kind == "":
        _write(options.out, lambda path: pictures.save_images(path, samples))
    else:
        columns = options.columns
        classes = trained.model.num_classes
        if columns is None and options.labels is None and 1 < classes <= 20:
            columns = classes
        picture = pictures.grid(samples, columns=columns, upscale=max(1, 64 // samples.shape[1]))
        _write(options.out, lambda path: pictures.save_png(path, picture))
    print(f"wrote {options.out}: {options.num} samples of {run} at step {trained.step}")
    return 0


@dataclasses.dataclass(frozen=True)
class InterpolateOptions:
    """Walk through the latent space of a run.

    The ending of --out decides what is written: .png a grid with one walk a row, .gif or .webp an
    animation in which all walks move at once and come back to where they began.

    `ganjax interpolate runs/quickstart --out walk.gif`
    """

    out: str = "walk.png"
    """What to write: a .png, a .gif or a .webp."""
    num_walks: int = 8
    """Walks side by side."""
    num_points: int = 4
    """Random latents that an animated walk passes; a row of a grid goes from one to another."""
    num_steps: int = 12
    """Pictures from one latent to the next, both included."""
    frames_per_second: int = 20
    """Of an animation."""
    seed: int = 0
    """Of the latents."""
    truncation: float | None = None
    """Draw latents beyond this again."""
    labels: str | None = None
    """Classes by number, one a walk, such as 0,1,2; by default all in turn."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def interpolate(arguments: list[str]) -> int:
    """Walk through the latent space of a run, as a grid or an animation."""
    run, options = _read(arguments, InterpolateOptions, "interpolate", "RUN")
    import jax
    import numpy as np

    from ganjax import build, latents, pictures

    kind = _kind_of(options.out, (".png", ".gif", ".webp"))
    _check_numbers(options, num_walks=1, num_points=2, num_steps=2, frames_per_second=1)
    trained = build.load(run, options.step)
    if len(trained.model.shape) != 3:
        raise InputError("a walk shows images, but this model makes points in the plane")
    key = jax.random.key(options.seed)
    moving = kind != ".png"
    stops = options.num_points if moving else 2
    walks = options.num_walks
    points = trained.model.latents.sample(key, stops * walks, options.truncation)
    points = points.reshape(stops, walks, -1)
    ends = [*range(1, stops), 0] if moving else [1]
    paths = [
        latents.interpolate(
            points[start], points[end], options.num_steps, spherical=trained.model.latents.spherical
        )
        for start, end in zip(range(stops), ends, strict=False)
    ]
    # The last point of a leg is the first of the next one.
    path = np.concatenate([np.asarray(leg)[: -1 if moving else None] for leg in paths])
    labels = trained.check_labels(_labels(options.labels), walks)
    frames = trained.sample(
        key,
        len(path) * walks,
        None if labels is None else np.tile(labels, len(path)),
        latents=path.reshape(len(path) * walks, -1),
        ema=options.ema,
    ).reshape(len(path), walks, *trained.model.shape)
    upscale = max(1, 64 // frames.shape[2])
    if moving:
        grids = [pictures.grid(frame, upscale=upscale) for frame in frames]
        rate = options.frames_per_second
        _write(options.out, lambda p: pictures.save_animation(p, grids, frames_per_second=rate))
    else:
        rows = frames.swapaxes(0, 1).reshape(-1, *trained.model.shape)
        picture = pictures.grid(rows, columns=len(path), upscale=upscale)
        _write(options.out, lambda p: pictures.save_png(p, picture))
    print(f"wrote {options.out}: {walks} walks of {len(path)} steps")
    return 0


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Score a run against its held-out data.

    Every figure is printed with the network that judged, the number of samples and what they were
    compared with, and is kept with all of its making in evaluation.json of the run directory.
    """

    num_samples: int | None = None
    """How many samples to generate; by default what the configuration says."""
    seed: int = 0
    """Of the samples."""
    truncation: float | None = None
    """Draw latents beyond this again."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def evaluate(arguments: list[str]) -> int:
    """Score a run against its held-out data."""
    run, options = _read(arguments, EvaluateOptions, "evaluate", "RUN")
    _check_numbers(options, num_samples=2)
    from ganjax import train as training
    from ganjax.report import print_figures

    print_figures(*training.evaluate(run, **dataclasses.asdict(options)))
    return 0


@dataclasses.dataclass(frozen=True)
class InfoOptions:
    """Say what a run is: its networks and their sizes, its data, how far it got, its scores."""


def info(arguments: list[str]) -> int:
    """Say what a run is: networks, FLOPs, data, device, how far it got, scores."""
    run, _ = _read(arguments, InfoOptions, "info", "RUN")
    from ganjax import build
    from ganjax.report import print_info
    from ganjax.run import RunDirectory

    directory = RunDirectory(run)
    record = directory.record()
    print_info(build.load(run), record, directory.evaluations())
    return 0


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Prepare a tensorflow-datasets set, so that `--data.source tfds:NAME` reads it.

    mnist, fashion_mnist, kmnist, cifar10 and cifar100 need no TensorFlow; any other set needs it
    for this one command. Files come from the network, or from a folder where they already are.
    """

    data_dir: str | None = None
    """Where to put it; by default where tensorflow-datasets puts its data."""
    downloads: str | None = None
    """A folder with the downloaded files under their original names, for use without a network."""


def data(arguments: list[str]) -> int:
    """Prepare a data set: `ganjax data prepare NAME`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} data prepare NAME [--data-dir DIR] [--downloads DIR]\n")
        print(inspect.getdoc(PrepareOptions))
        return 0 if arguments else 2
    if arguments[0] != "prepare":
        raise InputError(f"`{PROGRAM} data` knows prepare, not {arguments[0]!r}")
    name, options = _read(arguments[1:], PrepareOptions, "data prepare", "NAME")
    from ganjax import data as sources

    path = sources.prepare(
        name,
        data_dir=options.data_dir,
        downloads=options.downloads,
        progress=lambda line: print(line, file=sys.stderr),
    )
    print(f"prepared {name} in {path}; train on it with --data.source tfds:{name}")
    return 0


def _read(arguments: list[str], options: type, name: str, positional: str) -> tuple[str, Any]:
    """Return the one positional argument and the options of a command."""
    from ganjax import config

    first = next((a for a in arguments[:1] if not a.startswith("-")), None)
    wants_help = "-h" in arguments or "--help" in arguments
    if first is None and not wants_help:
        raise InputError(f"expected `{PROGRAM} {name} {positional} ...`; see --help")
    rest = arguments[1:] if first else arguments
    _check_flags(rest, config.field_names(options()))
    prog = f"{PROGRAM} {name} {first or positional}"
    return first or "", _parse(options, rest, prog=prog)


def _parse(options: type, arguments: Sequence[str], **settings: Any) -> Any:
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


def _check_numbers(options: Any, **least: int) -> None:
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} has to be {bound} or more, got {value}")
    truncation = getattr(options, "truncation", None)
    if truncation is not None and not truncation > 0:
        raise InputError(f"truncation has to be positive, got {truncation}")


def _labels(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--labels are numbers such as 0,1,2; got {text!r}") from error


def _kind_of(out: str, allowed: Sequence[str]) -> str:
    kind = Path(out).suffix.lower()
    if kind not in allowed:
        endings = ", ".join(ending or "none (a folder)" for ending in allowed)
        raise InputError(f"--out {out} ends in {kind or 'nothing'}; endings it knows: {endings}")
    return kind


def _write(out: str, write: Callable[[str], Any]) -> None:
    try:
        if "://" not in out:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
        write(out)
    except OSError as error:
        raise InputError(f"{out} could not be written: {error.strerror or error}") from error


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "resume": resume,
    "sample": sample,
    "interpolate": interpolate,
    "evaluate": evaluate,
    "info": info,
    "data": data,
}


if __name__ == "__main__":
    main()
