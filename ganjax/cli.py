"""The command line: one function a command, `COMMANDS` names them."""

import contextlib
import dataclasses
import difflib
import inspect
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganjax import processes
from ganjax.arguments import PROGRAM, check_flags, check_numbers, parse, parse_values, read
from ganjax.explore import classes, mix, project, truncation
from ganjax.portable import convert, export
from ganjax.prepare import data
from ganjax.processes import ProcessOptions
from ganjax.quiet import share_memory_arenas
from ganjax.samples import interpolate, sample
from ganjax.scores import evaluate, neighbors, path_length, weights
from ganjax.types import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    0 done, 1 diverged, 2 bad input, 70 an unforeseen error in one of several processes, 75 another
    process was lost, 129, 130 or 143 stopped and saved, 141 nobody reads the output.
    """
    share_memory_arenas()
    code = _code(list(sys.argv[1:] if arguments is None else arguments))
    if processes.is_child() and code not in (0, *processes.STOPPED):
        # JAX would wait at the exit for the others, who wait for this one in the training.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _code(arguments: list[str]) -> int:
    """Run a command and return its exit code; what nobody has foreseen goes on as an exception."""
    try:
        return _run(arguments)
    except InputError as error:
        _say(str(error))
        return 2
    except MemoryError as error:
        _say(f"there is not enough memory ({error}); ask for less at a time")
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        return 130
    except Exception:
        if not processes.is_child():
            raise
        traceback.print_exc()
        return processes.CRASHED


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
    with contextlib.suppress(OSError):  # nobody listens any more
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
        try:
            home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
            folder = Path(home) / "ganjax" / "compiled"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):
            return  # no home, or one that cannot be written, costs time and nothing else
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


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


@dataclasses.dataclass(frozen=True)
class TrainOptions(ProcessOptions):
    """What `train` takes beside the fields of a configuration."""

    run_directory: str | None = None
    """Where to write; by default runs/NAME, with a number where that exists."""
    dry_run: bool = False
    """Print the resolved configuration, parameters and FLOPs, and stop."""


def train(arguments: list[str]) -> int:
    """Train a configuration: a file with get_config(), or the name of a shipped one.

    Every field of the configuration can be set: `ganjax train quickstart --train.steps 500`.
    """
    from ganjax import config
    from ganjax import train as training
    from ganjax.build import build
    from ganjax.report import print_plan

    if not arguments or arguments[0] in ("-h", "--help"):
        print(_train_manual(config.shipped()))
        return 0 if arguments else 2
    settings, options = _configured("train", arguments, TrainOptions)
    if processes.several(options) and not options.dry_run:
        if options.run_directory is None:
            raise InputError(
                "several processes need the same --run-directory, on a disk that all of them see"
            )
        if not processes.is_child():
            return processes.supervise(["train", *arguments], options.run_directory, options)
        processes.join(options)
    _use_platform(settings.train.platform)
    processes.announce()
    if options.dry_run:
        print_plan(build(settings))
        return 0
    directory = options.run_directory or _free_directory(settings.name)
    return _go(directory, lambda report: training.train(settings, directory, report), settings.name)


def _configured(command: str, arguments: list[str], extra: type) -> tuple[Any, Any]:
    """Return the configuration that arguments make, and the other options of the command."""
    import tyro

    from ganjax import config, plain

    name, *rest = arguments
    if name.startswith("-"):
        raise InputError(f"the configuration comes first: {PROGRAM} {command} CONFIG {name} ...")
    settings = config.load_file(name)
    options_type = dataclasses.make_dataclass(
        "Options", [], bases=(extra, type(settings)), frozen=True
    )
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    default = options_type(**values)
    check_flags(rest, plain.field_names(default))
    options = parse(
        options_type,
        rest,
        default=default,
        prog=f"{PROGRAM} {command} {name}",
        description=_describe(settings, command, name),
        config=(tyro.conf.AvoidSubcommands,),
    )
    return type(settings)(**{name: getattr(options, name) for name in values}), options


def _go(directory, start, name) -> int:
    import jax

    from ganjax import loop
    from ganjax.report import Console, print_result
    from ganjax.run import RunDirectory
    from ganjax.train import Silent

    shown = RunDirectory(directory).shown
    if jax.process_index() != 0:  # the first one speaks for all
        start(Silent())
        return 0
    console = Console()
    console.note(f"run directory: {shown}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.warn(str(message))
            result = start(console)
    except loop.StoppedError as error:
        cause = signal.Signals(error.signal_number).name
        _say(f"{cause}: saved step {error.step}; continue with `{PROGRAM} resume {shown}`")
        raise
    try:
        print_result(result, name)
    except (OSError, SystemExit):  # nobody reads it any more; the training is done all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _free_directory(name: str) -> str:
    base, number = Path("runs") / name, 1
    path = base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return str(path)


def _describe(settings: Any, command: str, name: str) -> str:
    return (
        f"{command.capitalize()} {name} ({type(settings.model).__name__} of "
        f"{type(settings.model.network).__name__}). Every field below can be overridden."
    )


def _train_manual(shipped: dict[str, Path]) -> str:
    lines = [
        f"usage: {PROGRAM} train CONFIG [--FIELD VALUE ...] [--run-directory DIR] [--dry-run]",
        "                    [--coordinator HOST:PORT --num-processes N --process-id I]",
        "",
        inspect.getdoc(train),
        "",
        "  --run-directory DIR   where to write; by default runs/NAME, numbered where that exists",
        "  --coordinator, --num-processes, --process-id, --patience-seconds",
        "                        train by several processes, on one machine or many: the same",
        "                        command in each; none of them under SLURM, Open MPI, on TPU pods",
        "  --dry-run             print the resolved configuration, parameters and FLOPs, and stop",
        "",
        "SIGTERM, SIGINT and SIGHUP save the state and end with exit code 143, 130 and 129. What",
        f"was stopped or killed at any moment goes on with `{PROGRAM} resume DIR`, bit for bit as",
        "if nothing had happened; before DIR/config.json is there, with the same command again.",
        "Other exit codes: 0 done, 1 diverged, 2 bad input or a disk that cannot be written, 75",
        "another process was lost.",
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
class SweepOptions:
    """What `sweep` takes beside the fields of a configuration."""

    seeds: int | None = None
    """Train so many members, whose seeds are train.seed and those that follow."""
    values: tuple[str, str] | None = None
    """Train a member for each value of a hyper-parameter: `--values r1 0.01,0.1,1`."""
    strategy: str = "auto"
    """How members are computed: auto, vmap, map, devices, devices+vmap or devices+map."""
    run_directory: str | None = None
    """Where to write; by default runs/NAME-sweep, with a number where that exists."""


def sweep(arguments: list[str]) -> int:
    """Train several seeds, or values of a hyper-parameter, in one program, and compare.

    All members train at the same time on the same batches, and are scored at the end; the table
    that closes a sweep has the scores of each, and their mean and standard deviation.

      ganjax sweep mlp_ring --seeds 8
      ganjax sweep hinge --values r1 0.01,0.1,1 --train.steps 2000
    """
    from ganjax import loop
    from ganjax import sweep as sweeping
    from ganjax.report import Console
    from ganjax.run import RunDirectory

    if not arguments or arguments[0] in ("-h", "--help"):
        print(_sweep_manual())
        return 0 if arguments else 2
    settings, options = _configured("sweep", arguments, SweepOptions)
    if (options.seeds is None) == (options.values is None):
        raise InputError("expected --seeds NUMBER, or --values NAME 0.01,0.1,1, and not both")
    check_numbers(options, seeds=1)
    values = None
    if options.values is not None:
        values = options.values[0], parse_values(*options.values)
    if options.strategy.startswith(("auto", "devices")):
        _use_cores(options.seeds or len(values[1]))
    _use_platform(settings.train.platform)
    directory = options.run_directory or _free_directory(f"{settings.name}-sweep")
    shown = RunDirectory(directory).shown
    console = Console()
    console.note(f"run directory: {shown}")
    try:
        result = sweeping.sweep(
            settings,
            directory,
            seeds=options.seeds,
            values=values,
            strategy=options.strategy,
            report=console,
        )
    except loop.StoppedError as error:
        cause = signal.Signals(error.signal_number).name
        _say(
            f"{cause}: stopped at step {error.step}; the metrics so far are in {shown}, but a sweep"
            " cannot be continued"
        )
        raise
    sweeping.print_result(result, settings.name)
    return 0


def _use_cores(members: int) -> None:
    """Make of a CPU as many devices as can share the members, at most one a core.

    The threads of one device leave cores idle when networks are small.
    """
    import jax

    flags = os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices != -1 or "host_platform_device_count" in flags:
        return  # somebody has decided
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shares = [n for n in range(1, (cores or 1) + 1) if members % n == 0]
    with contextlib.suppress(RuntimeError):  # JAX has started in this process already
        jax.config.update("jax_num_cpu_devices", shares[-1])


def _sweep_manual() -> str:
    lines = [
        f"usage: {PROGRAM} sweep CONFIG (--seeds NUMBER | --values NAME VALUE,VALUE,...)",
        "                    [--strategy HOW] [--run-directory DIR] [--FIELD VALUE ...]",
        "",
        inspect.getdoc(sweep),
        "",
        "  --seeds NUMBER        so many members with the seeds train.seed and those that follow;",
        "                        they differ in weights and latents",
        "  --values NAME VALUES  a member for each value of a hyper-parameter, from the same seed:",
        "                        nothing else differs. GANs have the weight of each penalty by its",
        "                        name (r1, r2, gradient_penalty), generator_learning_rate,",
        "                        discriminator_learning_rate and ema_half_life_images; VAEs have",
        "                        learning_rate, beta, stddev and ema_half_life_images; as far as",
        "                        the configuration uses them",
        "  --strategy HOW        vmap (each operation for all members at once), map (one member",
        "                        after another, inside one program), devices (members spread over",
        "                        devices, and by vmap or map on each; devices+vmap and devices+map",
        "                        say which; the cores of a CPU count), or auto, which chooses",
        "  --run-directory DIR   where to write; by default runs/NAME-sweep, numbered where that",
        "                        exists",
        "",
        "The directory holds the resolved configuration (config.json), the metrics of each member",
        "(metrics.jsonl), a picture of each (samples/) and the scores (scores.json). There are no",
        "checkpoints and no scores on the way: train the member that you want to keep again.",
        "A member that is no longer finite is reported and does not stop the others.",
        "",
        f"`{PROGRAM} sweep CONFIG --help` lists every field of a configuration with its default.",
    ]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class ResumeOptions(ProcessOptions):
    """Go on with a run from its latest sound checkpoint, exactly where it was.

    A run that was killed before its first checkpoint starts again from step 0.

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
    run, options = read(arguments, ResumeOptions, "resume", "RUN")
    from ganjax import config
    from ganjax import train as training
    from ganjax.files import of_file
    from ganjax.run import CONFIG, RunDirectory

    directory = RunDirectory(run)
    record = directory.record()
    with of_file(f"{directory.shown}/{CONFIG}"):
        settings = config.from_json(record["config"])
    if processes.several(options):
        if not processes.is_child():
            return processes.supervise(["resume", *arguments], run, options)
        processes.join(options)
    _use_platform(settings.train.platform)
    processes.announce()
    return _go(run, lambda report: training.resume(run, options.train.steps, report), settings.name)


@dataclasses.dataclass(frozen=True)
class InfoOptions:
    """Say what a run is: its networks and their sizes, its data, how far it got, its scores."""


def info(arguments: list[str]) -> int:
    """Say what a run is: networks, FLOPs, data, device, how far it got, scores."""
    run, _ = read(arguments, InfoOptions, "info", "RUN")
    from ganjax.report import print_info
    from ganjax.run import RunDirectory
    from ganjax.trained import load

    directory = RunDirectory(run)
    record = directory.record()
    print_info(load(run), record, directory.evaluations())
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "sweep": sweep,
    "resume": resume,
    "sample": sample,
    "interpolate": interpolate,
    "truncation": truncation,
    "classes": classes,
    "mix": mix,
    "project": project,
    "convert": convert,
    "export": export,
    "evaluate": evaluate,
    "neighbors": neighbors,
    "path-length": path_length,
    "info": info,
    "data": data,
    "weights": weights,
}


if __name__ == "__main__":
    main()
