"""The commands that draw: `ganjax sample` and `ganjax interpolate`."""

import dataclasses
import sys
from pathlib import Path

from ganjax.arguments import check_numbers, kind_of, parse_labels, read, write_output
from ganjax.types import InputError


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Generate samples from a run.

    The ending of --out decides what is written: .png a grid, .npz an array `samples` (N, H, W, C)
    float32 in [-1, 1], and a name without ending a folder of single PNGs. A model of text writes to
    the terminal, or to a .txt.

      ganjax sample runs/quickstart --num 64 --seed 3 --truncation 0.8 --out grid.png
      ganjax sample runs/char_gpt --prompt "ROMEO:" --top-p 0.95 --num 3
    """

    num: int | None = None
    """How many samples; by default 64, of text 1, or one for each of --labels."""
    seed: int = 0
    """Of the latents, or of the choices of tokens."""
    prompt: str | None = None
    """With which a text begins."""
    tokens: int | None = None
    """How many to write; by default 500, with --num-beams as many as the model sees at once, and of
    lines a whole one."""
    temperature: float | None = None
    """How freely tokens are chosen: 1 as the model has learnt, 0 the likeliest."""
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability."""
    min_p: float | None = None
    """Choose among tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float | None = None
    """Above 1: avoid tokens that are there already."""
    num_beams: int | None = None
    """Choose nothing: search for the --num likeliest continuations, following so many at a time."""
    truncation: float | None = None
    """Less variety, more typical samples: latents beyond this are drawn again; with styles, how far
    from the mean style to go (0 to 1)."""
    labels: str | None = None
    """Classes by number or name, such as 0,1,2, taken in turn; by default all in turn."""
    out: str | None = None
    """What to write: a .png, a .npz, or a folder; of text a .txt. By default samples.png, and text
    goes to the terminal."""
    columns: int | None = None
    """Columns of the grid."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    standing_batches: int = 0
    """Batches over which batch norm's statistics are gathered anew; 0 for the running ones."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def sample(arguments: list[str]) -> int:
    """Generate samples from a run: a grid, single pictures, an array, or text."""
    run, options = read(arguments, SampleOptions, "sample", "RUN")
    import jax
    import numpy as np

    from ganjax import pictures
    from ganjax.judging import draw
    from ganjax.trained import load
    from ganjax.trained_text import TrainedText

    check_numbers(options, num=1, columns=1, standing_batches=0, tokens=1, num_beams=1)
    trained = load(run, options.step)
    if isinstance(trained, TrainedText):
        return _sample_text(trained, run, options)
    _refuse(options, _OF_TEXT, f"is for text, and {run} makes images")
    options = dataclasses.replace(
        options, num=options.num or 64, out="samples.png" if options.out is None else options.out
    )
    kind = kind_of(options.out, (".png", ".npz", ""))
    if options.standing_batches:
        trained = trained.with_standing_statistics(options.standing_batches)
    samples = trained.sample(
        jax.random.key(options.seed),
        options.num,
        parse_labels(options.labels),
        truncation=options.truncation,
        ema=options.ema,
    )
    is_points = samples.ndim != 4
    if kind == ".npz":
        write_output(options.out, lambda path: np.savez(path, samples=samples))
    elif is_points:
        write_output(options.out, lambda path: draw(samples, 0, path))
    elif kind == "":
        _check_folder(Path(options.out), options.num)
        write_output(options.out, lambda path: pictures.save_images(path, samples))
    else:
        columns = options.columns
        classes = trained.model.num_classes
        if columns is None and options.labels is None and 1 < classes <= 20:
            columns = classes
        picture = pictures.grid(samples, columns=columns, upscale=max(1, 64 // samples.shape[1]))
        write_output(options.out, lambda path: pictures.save_png(path, picture))
    print(f"wrote {options.out}: {options.num} samples of {run} at step {trained.step}")
    return 0


def _check_folder(folder: Path, num: int) -> None:
    """Refuse a folder with pictures of an earlier call that would stay among the new ones."""
    names = {f"{number:06d}.png" for number in range(num)}
    if others := sorted(p.name for p in folder.glob("[0-9]*.png") if p.name not in names):
        raise InputError(
            f"--out {folder} holds {len(others)} other pictures, such as {others[0]}: choose "
            "another folder, or empty it"
        )


_OF_CHOICE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_OF_TEXT = ("prompt", "tokens", "num_beams", *_OF_CHOICE)
_OF_IMAGES = ("truncation", "columns", "standing_batches")


def _refuse(options, names, why):
    unused = SampleOptions()
    for name in names:
        if getattr(options, name) != getattr(unused, name):
            raise InputError(f"--{name.replace('_', '-')} {why}: leave it out")


def _sample_text(trained, run, options) -> int:
    """Write texts to the terminal as they come, or all at once to a file."""
    import jax

    from ganjax.generation import Sampling

    _refuse(options, _OF_IMAGES, f"is for images, and {run} writes text")
    choice = {name: getattr(options, name) for name in _OF_CHOICE}
    sampling = Sampling(**{name: value for name, value in choice.items() if value is not None})
    sampling.check()
    chosen = parse_labels(options.labels)
    key, prompt = jax.random.key(options.seed), options.prompt or ""
    num = options.num or len(chosen or [0])
    labels = trained.check_labels(chosen, num)
    common = {"max_new_tokens": options.tokens, "sampling": sampling, "ema": options.ema}
    if options.num_beams is not None:
        _refuse(options, _OF_CHOICE, "chooses tokens, and --num-beams chooses none")
        _refuse(options, ("out",), "is for samples, and --num-beams writes to the terminal")
        del common["sampling"]
        if labels is not None:
            if len(chosen or ()) != 1:
                raise InputError("--num-beams searches within one class: give --labels one")
            common["label"] = int(labels[0])
        for text, score in trained.beam_search(prompt, options.num_beams, num, **common):
            print(_printable(text))
            print(f"({score:.4f} nats a token)")
        return 0
    if options.out is None:
        for index in range(num):
            if index:
                print("-" * 40)
            if labels is not None:
                common["label"] = int(labels[index])
                print(_printable(trained.name_of(common["label"])), end="\t", flush=True)
            for piece in trained.stream(prompt, key=jax.random.fold_in(key, index), **common):
                print(_printable(piece), end="", flush=True)
            print()
        return 0
    kind_of(options.out, (".txt",))
    texts = trained.write(prompt, num, key=key, labels=labels, **common)
    if labels is not None:
        names = map(trained.name_of, labels.tolist())
        texts = [f"{name}\t{text}" for name, text in zip(names, texts, strict=True)]
    between = f"\n{'-' * 40}\n" if trained.form.windows else "\n"

    def save(path: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(between.join(texts) + "\n")

    write_output(options.out, save)
    print(f"wrote {options.out}: {num} texts of {run} at step {trained.step}")
    return 0


def _printable(text: str) -> str:
    """Return a text with what the terminal cannot show replaced."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


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
    path: str = "auto"
    """spherical (along a great circle), linear, or auto: spherical where latents are normal."""
    truncation: float | None = None
    """Less variety, more typical samples: latents beyond this are drawn again; with styles, how far
    from the mean style to go (0 to 1)."""
    labels: str | None = None
    """Classes by number or name, one a walk, such as 0,1,2; by default all in turn."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def interpolate(arguments: list[str]) -> int:
    """Walk through the latent space of a run, as a grid or an animation."""
    run, options = read(arguments, InterpolateOptions, "interpolate", "RUN")
    import jax
    import numpy as np

    from ganjax import latents, pictures
    from ganjax.networks.layers import require_choice
    from ganjax.trained import load_image_run

    kind = kind_of(options.out, (".png", ".gif", ".webp"))
    check_numbers(options, num_walks=1, num_points=2, num_steps=2, frames_per_second=1)
    trained = load_image_run(run, options.step)
    if len(trained.model.shape) != 3:
        raise InputError("a walk shows images, but this model makes points in the plane")
    require_choice("--path", options.path, ("auto", "spherical", "linear"))
    spherical = trained.model.latents.spherical
    if options.path != "auto":
        spherical = options.path == "spherical"
    key = jax.random.key(options.seed)
    moving = kind != ".png"
    stops = options.num_points if moving else 2
    walks = options.num_walks
    cut = None if trained.has_styles else options.truncation
    points = trained.model.latents.sample(key, stops * walks, cut)
    points = points.reshape(stops, walks, -1)
    ends = [*range(1, stops), 0] if moving else [1]
    paths = [
        latents.interpolate(points[start], points[end], options.num_steps, spherical=spherical)
        for start, end in zip(range(stops), ends, strict=False)
    ]
    # The last point of a leg is the first of the next one.
    path = np.concatenate([np.asarray(leg)[: -1 if moving else None] for leg in paths])
    labels = trained.check_labels(parse_labels(options.labels), walks)
    frames = trained.sample(
        key,
        len(path) * walks,
        None if labels is None else np.tile(labels, len(path)),
        latents=path.reshape(len(path) * walks, -1),
        truncation=options.truncation,
        ema=options.ema,
    ).reshape(len(path), walks, *trained.model.shape)
    upscale = max(1, 64 // frames.shape[2])
    if moving:
        grids = [pictures.grid(frame, upscale=upscale) for frame in frames]
        rate = options.frames_per_second
        write_output(
            options.out, lambda p: pictures.save_animation(p, grids, frames_per_second=rate)
        )
    else:
        rows = frames.swapaxes(0, 1).reshape(-1, *trained.model.shape)
        picture = pictures.grid(rows, columns=len(path), upscale=upscale)
        write_output(options.out, lambda p: pictures.save_png(p, picture))
    print(f"wrote {options.out}: {walks} walks of {len(path)} steps")
    return 0
