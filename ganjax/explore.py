"""The commands that explore a latent space: `truncation`, `classes`, `mix`, `project`."""

import dataclasses

from ganjax.arguments import check_numbers, kind_of, parse_labels, parse_values, read, write_output
from ganjax.types import InputError


@dataclasses.dataclass(frozen=True)
class TruncationOptions:
    """Show the same latents at several truncations, one a column.

    A generator with styles goes from the mean style (0) to the whole way (1); for others, latents
    are drawn from a normal distribution cut off there, so that columns differ in their latents.

    `ganjax truncation runs/stylegan2_small --values 0,0.3,0.5,0.7,1`
    """

    values: str = "0.3,0.5,0.7,1"
    """Truncations, from left to right."""
    num: int = 8
    """Rows: latents."""
    seed: int = 0
    """Of the latents."""
    labels: str | None = None
    """Classes by number or name, one a row, such as 0,1,2; by default all in turn."""
    out: str = "truncation.png"
    """The grid, a .png."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def truncation(arguments: list[str]) -> int:
    """Show the same latents at several truncations."""
    run, options = read(arguments, TruncationOptions, "truncation", "RUN")
    import jax

    kind_of(options.out, (".png",))
    check_numbers(options, num=1)
    values = parse_values("--values", options.values)
    trained = _load(run, options.step)
    key = jax.random.key(options.seed)
    labels = trained.check_labels(parse_labels(options.labels), options.num)
    latents = trained.model.latents.sample(key, options.num) if trained.has_styles else None
    columns = [
        trained.sample(key, options.num, labels, latents=latents, truncation=value, ema=options.ema)
        for value in values
    ]
    _write_columns(options.out, columns)
    print(f"wrote {options.out}: {options.num} latents at {options.values}")
    return 0


@dataclasses.dataclass(frozen=True)
class ClassesOptions:
    """Show every class of a conditional model in a row, the same latent in every column.

    `ganjax classes runs/biggan_small --out classes.png`
    """

    num: int = 10
    """Columns: latents."""
    labels: str | None = None
    """Classes by number or name, one a row, such as 0,1,2; by default all."""
    seed: int = 0
    """Of the latents."""
    truncation: float | None = None
    """Less variety, more typical samples."""
    out: str = "classes.png"
    """The grid, a .png."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def classes(arguments: list[str]) -> int:
    """Show every class in a row, the same latent in every column."""
    run, options = read(arguments, ClassesOptions, "classes", "RUN")
    import jax
    import numpy as np

    kind_of(options.out, (".png",))
    check_numbers(options, num=1)
    trained = _load(run, options.step)
    if not trained.model.num_classes:
        raise InputError(f"{run} was trained without classes; `ganjax sample` shows what it makes")
    rows = parse_labels(options.labels)
    rows = trained.check_labels(rows, len(rows) if rows else trained.model.num_classes)
    key = jax.random.key(options.seed)
    cut = None if trained.has_styles else options.truncation
    latents = trained.model.latents.sample(key, options.num, cut)
    samples = trained.sample(
        key,
        len(rows) * options.num,
        np.repeat(rows, options.num),
        latents=np.tile(latents, (len(rows), 1)),
        truncation=options.truncation,
        ema=options.ema,
    )
    _write(options.out, samples, options.num)
    names = trained.class_names
    shown = ", ".join(names[label] if names else str(label) for label in rows)
    print(f"wrote {options.out}: rows are {shown}")
    return 0


@dataclasses.dataclass(frozen=True)
class MixOptions:
    """Mix the styles of two latents: the left picture of a row with the upper one of a column.

    `ganjax mix runs/stylegan2_small --layers 2-3`
    """

    rows: int = 6
    """Latents down the left side."""
    columns: int = 6
    """Latents along the upper side, whose styles the layers take."""
    layers: str | None = None
    """Layers that take the styles of the column, such as 0-3 or 4; by default the first half, which
    decides coarse features."""
    seed: int = 0
    """Of the latents."""
    truncation: float = 0.7
    """How far from the mean style to go."""
    labels: str | None = None
    """Classes by number or name, in turn."""
    out: str = "mix.png"
    """The grid, a .png."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def mix(arguments: list[str]) -> int:
    """Mix the styles of latents, for a generator with styles."""
    run, options = read(arguments, MixOptions, "mix", "RUN")
    import jax
    import numpy as np

    kind_of(options.out, (".png",))
    check_numbers(options, rows=1, columns=1)
    trained = _load(run, options.step)
    rows, columns = options.rows, options.columns
    latents = trained.model.latents.sample(jax.random.key(options.seed), rows + columns)
    styles = np.array(
        trained.map(
            latents,
            parse_labels(options.labels),
            truncation=options.truncation,
            ema=options.ema,
        )
    )
    first, last = _parse_layers(options.layers, styles.shape[1])
    mixed = np.repeat(styles[:rows], columns, axis=0)
    mixed[:, first : last + 1] = np.tile(styles[rows:], (rows, 1, 1))[:, first : last + 1]
    everything = np.concatenate([styles, mixed])
    synthesize = jax.jit(lambda styles: trained.synthesize(styles, ema=options.ema))
    # One picture at a time keeps the noise of all pictures the same.
    images = np.concatenate([synthesize(one[None]) for one in everything])
    left, upper, inner = np.split(images, [rows, rows + columns])
    corner = np.ones_like(images[:1])
    lines = [corner, upper]
    for row in range(rows):
        lines += [left[row : row + 1], inner[row * columns : (row + 1) * columns]]
    _write(options.out, np.concatenate(lines), columns + 1)
    print(f"wrote {options.out}: layers {first} to {last} of {styles.shape[1]} from the upper row")
    return 0


def _parse_layers(text, count):
    if text is None:
        return 0, max(0, count // 2 - 1)
    parts = text.split("-")
    numbers = [int(part) for part in parts if part.isdigit()]
    if len(numbers) != len(parts) or len(numbers) > 2 or not numbers[0] <= numbers[-1] < count:
        raise InputError(
            f"--layers are numbers such as 0-3 or 4, below {count} for this model; got {text!r}"
        )
    return numbers[0], numbers[-1]


@dataclasses.dataclass(frozen=True)
class ProjectOptions:
    """Find the latent whose image is nearest to each of some pictures.

    Writes a grid with the pictures and below each what the generator makes of it; a name in .npz
    gets the arrays `points`, `images` and `distances`. Pixels are compared; `Trained.project` in
    Python takes any feature extractor.

    `ganjax project runs/stylegan2_small shirt.png shoe.png --steps 500`
    """

    steps: int = 500
    """Updates of the latent."""
    learning_rate: float = 0.1
    """Of Adam at its highest."""
    each_layer: bool = False
    """Give each layer a style of its own (only with styles)."""
    labels: str | None = None
    """Classes of the pictures by number or name, in turn, for a conditional model."""
    resize: str = "crop"
    """How a picture of another size reaches the model's: crop, stretch or pad."""
    seed: int = 0
    """Of the start and of the noise."""
    out: str = "projection.png"
    """A .png or a .npz."""
    ema: bool = True
    """Use the running average of the generator where there is one."""
    at: int | None = None
    """Step of the checkpoint; by default the latest sound one."""


def project(arguments: list[str]) -> int:
    """Find the latents of given pictures."""
    files = []
    for argument in arguments[1:]:
        if argument.startswith("-"):
            break
        files.append(argument)
    rest = [*arguments[:1], *arguments[1 + len(files) :]]
    run, options = read(rest, ProjectOptions, "project", "RUN PICTURE ...")
    import numpy as np

    from ganjax import pictures
    from ganjax.data.images import ImageRule, decode

    if not files:
        raise InputError(
            "expected `ganjax project RUN PICTURE ...`: the pictures come before the options"
        )
    kind = kind_of(options.out, (".png", ".npz"))
    check_numbers(options, steps=1)
    if not options.learning_rate > 0:
        raise InputError(f"--learning-rate has to be positive, got {options.learning_rate}")
    trained = _load(run, options.at)
    height, width, channels = trained.model.shape
    rule = ImageRule((height, width), channels, options.resize)
    images = []
    for name in files:
        try:
            with open(name, "rb") as file:
                images.append(decode(file, name, rule))
        except OSError as error:
            raise InputError(f"{name} could not be read: {error.strerror or error}") from error
    images = np.stack(images)
    found = trained.project(
        images,
        parse_labels(options.labels),
        num_steps=options.steps,
        learning_rate=options.learning_rate,
        each_layer=options.each_layer,
        seed=options.seed,
        ema=options.ema,
    )
    if kind == ".npz":
        arrays = {name: np.asarray(value) for name, value in found._asdict().items()}
        write_output(options.out, lambda path: np.savez(path, **arrays))
    else:
        scale = max(1, 64 // height)
        picture = pictures.reconstructions(images, found.images, upscale=scale)
        write_output(options.out, lambda path: pictures.save_png(path, picture))
    distances = np.asarray(found.distances)
    print(
        f"wrote {options.out}: mean squared distance {distances[0].mean():.4g} at the start, "
        f"{distances[-1].mean():.4g} after {options.steps} steps (pixels in [-1, 1])"
    )
    return 0


def _load(run, step):
    from ganjax.trained import load_image_run

    trained = load_image_run(run, step)
    if len(trained.model.shape) != 3:
        raise InputError(f"{run} makes points in the plane; this command shows images")
    return trained


def _write_columns(out, columns):
    import numpy as np

    samples = np.stack(columns, axis=1)
    _write(out, samples.reshape(-1, *samples.shape[2:]), len(columns))


def _write(out, samples, columns):
    from ganjax import pictures

    picture = pictures.grid(samples, columns=columns, upscale=max(1, 64 // samples.shape[1]))
    write_output(out, lambda path: pictures.save_png(path, picture))
