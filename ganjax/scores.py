"""The commands around evaluation: `evaluate`, `neighbors`, `path-length`, `weights`."""

import dataclasses
import sys

from ganjax.arguments import PROGRAM, check_numbers, kind_of, parse_labels, read, write_output
from ganjax.types import InputError


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Score a run, or images that are there already, against real images.

    Every figure is printed with the network that judged, the number of samples and what they were
    compared with. Those of a run are kept with all of their making in its evaluation.json.

      ganjax evaluate runs/quickstart --metrics frechet_distance precision_recall
      ganjax evaluate runs/big --extractor inception-v3 --num-samples 50000 --reference train
      ganjax evaluate samples/ --reference photos.zip --image-size 64 64
    """

    metrics: tuple[str, ...] = ()
    """frechet_distance, classifier_score, kernel_distance, precision_recall, density_coverage,
    frechet_distance_at_infinity, intra_class_frechet_distance or stacked_modes; of text perplexity,
    bits_per_character, nll_oracle, nll_generator, bleu, self_bleu or distinct; by default what the
    configuration says."""
    extractor: str | None = None
    """The network that judges: auto (the shipped classifier for this size, else pixels),
    fashion-mnist, cifar10, stacked-fashion-mnist, pixels, inception-v3 (see `ganjax weights`), the
    .pth of such a network, or FILE.py:FUNCTION."""
    reference: str | None = None
    """What to compare with: held out or train (of the run), a folder, zip, .npz or tfds:NAME of
    images, or an .npz of statistics (mu, sigma); for the BLEU of text a .txt of sentences."""
    reference_split: str | None = None
    """The part of such a reference, where it has parts."""
    num_samples: int | None = None
    """How many samples to generate; by default what the configuration says."""
    seed: int = 0
    """Of the samples."""
    truncation: float | None = None
    """Less variety, more typical samples: latents beyond this are drawn again; with styles, how far
    from the mean style to go (0 to 1)."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    standing_batches: int | None = None
    """Batches over which batch norm's statistics are gathered anew (BigGAN: 16 or more)."""
    temperature: float | None = None
    """Of a model of text: how freely it chooses; 1 as it has learnt."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""
    image_size: tuple[int, int] | None = None
    """Height and width to bring images to that are there already; a run has its own."""
    channels: int | None = None
    """1 grey, 3 colour, 4 with alpha, of images that are there already."""


def evaluate(arguments: list[str]) -> int:
    """Score a run, or a folder of images, against real images."""
    source, options = read(arguments, EvaluateOptions, "evaluate", "RUN|IMAGES")
    check_numbers(options, num_samples=2, standing_batches=0)
    from ganjax import measure
    from ganjax.report import print_figures
    from ganjax.run import CONFIG, RunDirectory

    of_images, of_a_run = ("image_size", "channels"), dataclasses.asdict(options)
    images = {name: of_a_run.pop(name) for name in of_images}
    of_a_run["metrics"] = options.metrics or None
    temperature = of_a_run.pop("temperature")
    if temperature is not None:
        from ganjax.generation import Sampling

        of_a_run["sampling"] = Sampling(temperature)
        of_a_run["sampling"].check()
    if (RunDirectory(source).path / CONFIG).exists() or options.reference is None:
        given = [name for name, value in images.items() if value is not None]
        if given:
            flag = given[0].replace("_", "-")
            raise InputError(f"--{flag} is for images; a run has its own: leave it out")
        print_figures(*measure.evaluate(source, **of_a_run))
        return 0
    unused = EvaluateOptions()
    known = ("metrics", "extractor", "reference", "reference_split", *of_images)
    for field in dataclasses.fields(options):
        if field.name not in known and getattr(options, field.name) != getattr(unused, field.name):
            flag = field.name.replace("_", "-")
            raise InputError(f"--{flag} is for a run, and {source} holds none: leave it out")
    figures = measure.compare(
        source,
        options.reference,
        metrics=options.metrics or None,
        extractor=options.extractor or "auto",
        reference_split=options.reference_split or "train",
        **images,
    )
    print_figures(figures, {})
    return 0


@dataclasses.dataclass(frozen=True)
class NeighborsOptions:
    """Show samples beside the training images that are nearest to them.

    A generator that has memorised shows the same image twice in a row. What "near" means is said by
    the extractor, as in `ganjax evaluate`.

    `ganjax neighbors runs/quickstart --out neighbors.png`
    """

    num: int = 8
    """Rows: samples."""
    num_neighbors: int = 7
    """Training images beside each, the nearest first."""
    extractor: str | None = None
    """As in `ganjax evaluate`."""
    reference: str = "train"
    """Where to look: train, held out, or a source of images."""
    out: str = "neighbors.png"
    """The grid, a .png."""
    seed: int = 0
    """Of the samples."""
    truncation: float | None = None
    """Less variety, more typical samples."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def neighbors(arguments: list[str]) -> int:
    """Show samples beside their nearest training images."""
    run, options = read(arguments, NeighborsOptions, "neighbors", "RUN")
    kind_of(options.out, (".png",))
    check_numbers(options, num=1, num_neighbors=1)
    from ganjax import measure, pictures

    settings = dataclasses.asdict(options)
    out = settings.pop("out")
    found = measure.neighbors(run, **settings)
    write_output(out, lambda path: pictures.save_png(path, pictures.neighbors(*found[:2])))
    nearest, usual = found.distances[:, 0].mean(), found.between_real
    print(
        f"wrote {out}: a sample and the {options.num_neighbors} nearest of {found.name}, a row; "
        f"the nearest is {nearest:.3g} away on average, real images among themselves {usual:.3g} "
        f"({found.extractor})"
    )
    return 0


@dataclasses.dataclass(frozen=True)
class PathLengthOptions:
    """Measure how smoothly images change along paths between styles (perceptual path length).

    It is the mean squared difference of features between images a little apart, over the square of
    that little: small where interpolation is smooth. Figures of different extractors do not
    compare, and none here with those of the literature, which use LPIPS.

    `ganjax path-length runs/stylegan2_small`
    """

    num_samples: int = 1000
    """Pairs of images."""
    space: str = "w"
    """w (styles) or z (latents)."""
    ends: bool = False
    """Measure at the ends of paths only."""
    extractor: str | None = None
    """As in `ganjax evaluate`."""
    labels: str | None = None
    """Classes by number or name, such as 0,1,2; by default all in turn."""
    seed: int = 0
    """Of the latents."""
    ema: bool = True
    """Sample the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def path_length(arguments: list[str]) -> int:
    """Measure how smoothly images change between styles."""
    run, options = read(arguments, PathLengthOptions, "path-length", "RUN")
    check_numbers(options, num_samples=100)
    from ganjax import measure

    settings = {**dataclasses.asdict(options), "labels": parse_labels(options.labels)}
    print(measure.path_length(run, **settings))
    return 0


@dataclasses.dataclass(frozen=True)
class WeightsOptions:
    """Keep a copy of published weights on this machine, for `--extractor inception-v3`.

    The file is fetched from where its authors put it, or read where it is already; its sha256 is
    checked, and nothing in it is run.

    `ganjax weights inception-v3 --file pt_inception-2015-12-05-6726825d.pth`
    """

    file: str | None = None
    """The published file, where it is here already; by default it is fetched."""


def weights(arguments: list[str]) -> int:
    """Keep a copy of published weights: `ganjax weights inception-v3`."""
    name, options = read(arguments, WeightsOptions, "weights", "NAME")
    from ganjax.evaluation.weights import install

    path = install(name, options.file, progress=lambda text: print(text, file=sys.stderr))
    print(f"kept {name} in {path}; use it with `{PROGRAM} evaluate RUN --extractor {name}`")
    return 0
