"""The commands that bring models in and out: `convert` and `export`."""

import dataclasses

from ganjax.arguments import check_flags, parse, read
from ganjax.types import InputError


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """Write a run directory from an official .pkl, .pth or .pt of StyleGAN2, R3GAN or BigGAN.

    Nothing in the file is run: a restricted reader takes arrays and refuses everything else. The
    run takes `sample`, `interpolate`, `project` and the rest, and `evaluate` where --data names a
    set; `ganjax train CONFIG --train.init-from OUT` goes on from it.

    `ganjax convert stylegan2-ffhq-256x256.pkl runs/ffhq`
    """

    discriminator: str | None = None
    """A second file, where the first holds the generator alone (BigGAN)."""
    data: str | None = None
    """What to score it on: a source as in data.source."""


def convert(arguments: list[str]) -> int:
    """Write a run directory from official weights."""
    names = [a for a in arguments[:2] if not a.startswith("-")]
    wants_help = "-h" in arguments or "--help" in arguments
    if len(names) < 2 and not wants_help:
        raise InputError("expected `ganjax convert FILE OUT`; see --help")
    rest = arguments[len(names) :]
    check_flags(rest, [field.name for field in dataclasses.fields(ConvertOptions)])
    options = parse(ConvertOptions, rest, prog="ganjax convert FILE OUT")
    from ganjax.config import Data
    from ganjax.convert import convert as write_run

    settings = None if options.data is None else Data(source=options.data)
    run = write_run(names[0], names[1], discriminator=options.discriminator, data_settings=settings)
    print(f"wrote {run.shown}: try `ganjax sample {run.shown}`")
    return 0


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Write the generator of a run for use without it.

    safetensors: a folder with `generator.safetensors` and `config.json`, which
    `ganjax.interop.load_weights` and any reader of that format take. stablehlo: one file with
    weights and computation, which `ganjax.interop.load_program` or JAX alone runs.

    `ganjax export runs/quickstart --out generator.stablehlo`
    """

    out: str = "generator"
    """A folder for safetensors, or a file in .stablehlo."""
    batch_size: int | None = None
    """Of every call of a .stablehlo; by default any."""
    ema: bool = True
    """Take the running average of the generator where there is one."""
    step: int | None = None
    """Of the checkpoint; by default the latest sound one."""


def export(arguments: list[str]) -> int:
    """Write the generator of a run as safetensors or as a StableHLO program."""
    run, options = read(arguments, ExportOptions, "export", "RUN")
    import jax

    from ganjax import interop, players
    from ganjax.arguments import check_numbers, kind_of
    from ganjax.config import to_json
    from ganjax.trained import load_image_run

    check_numbers(options, batch_size=1)
    kind = kind_of(options.out, (".stablehlo", ""))
    trained = load_image_run(run, options.step)
    model, state = trained.model, trained.state
    name = "generator" if "generator" in state.players else "decoder"
    if kind == "":
        variables = players.all_variables(state.players[name])
        if options.ema:
            variables = state.ema.get(name, variables)
        about = {
            "model": to_json(trained.config.model),
            "shape": list(model.shape),
            "num_classes": model.num_classes,
            "class_names": list(trained.class_names),
            "step": trained.step,
        }
        interop.save_weights(options.out, variables, about)
    else:

        def generate(latents, labels):
            return model.algorithm.sample(
                state, jax.random.key(0), latents.shape[0], labels, latents=latents, ema=options.ema
            )

        interop.save_program(
            options.out,
            generate,
            latent_dim=model.latents.dimension,
            num_classes=model.num_classes,
            batch_size=options.batch_size,
        )
    print(f"wrote {options.out}: the {name} of {run} at step {trained.step}")
    return 0
