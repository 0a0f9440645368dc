"""How good and how varied are the sentences of each text model? BLEU and self-BLEU.

Trains each configuration on a file of sentences, one a line, unless its run is there already, and
scores 1,000 sentences of it: BLEU against other sentences (--reference), self-BLEU among
themselves. A model that is trained on the likelihood alone is scored at several temperatures: a GAN
is better where it has a higher BLEU at the same self-BLEU.

    python benchmarks/sentences.py --source coco_train.txt --reference coco_test.txt --out FILE
"""

import dataclasses
import tempfile
from pathlib import Path

import common

from ganjax import config
from ganjax.config import Config, TextGAN

CASES = (
    "sentences_mle",
    "sentences_lstm_gan",
    "sentences_wgan_gp",
    "sentences_seqgan",
    "sentences_relgan",
)
TEMPERATURES = (1.0, 0.8, 0.6, 0.4)


def main() -> None:
    args = common.arguments(
        __doc__,
        CASES,
        default=("sentences_mle", "sentences_lstm_gan"),
        source={
            "default": "tiny_shakespeare",
            "help": "a .txt or .txt.gz, one sentence a line; by default lines of Shakespeare",
        },
        reference={"default": "held out", "help": "held out, or another such file"},
        seed={"type": int, "default": 0, "help": "of the trainings"},
        length={"type": int, "help": "the most tokens of a sentence, its end included"},
        pretrain_steps={"type": int, "help": "of a text GAN on the likelihood, where it has such"},
        game_steps={
            "type": int,
            "help": "of a text GAN after them",
        },
        runs={"type": Path, "help": "keep the runs here; by default they are thrown away"},
    )
    results = common.Results("sentences", args.out, add_to=True)
    keys = ("case", "source", "seed", "length", "pretrain_steps", "game_steps")
    done = {tuple(row.get(key) for key in keys) for row in results.known}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.cases:
            plays = isinstance(config.load_file(name).model, TextGAN)
            schedule = (args.pretrain_steps, args.game_steps) if plays else (None, None)
            if (name, Path(args.source).name, args.seed, args.length, *schedule) not in done:
                score(results, name, args, args.runs or Path(folder))


def score(results: common.Results, name: str, args, runs: Path) -> None:
    """Train one configuration, and add a row for each temperature that counts."""
    from ganjax import measure, train
    from ganjax.generation import Sampling

    settings = shortened(config.load_file(name), args)
    plays = isinstance(settings.model, TextGAN)
    schedule = f"-{settings.model.pretrain_steps}-{settings.train.steps}" if plays else ""
    stem = Path(args.source).name.partition(".")[0]
    directory, seconds = runs / f"{name}-{stem}-{args.seed}{schedule}", None
    if not (directory / "evaluation.json").exists():
        seconds = train.train(settings, str(directory)).seconds
    count = 50 if args.quick else 1000
    for temperature in TEMPERATURES[: 1 if plays or args.quick else None]:
        figures, _ = measure.evaluate(
            str(directory),
            metrics=("bleu", "self_bleu"),
            num_samples=count,
            reference=args.reference,
            sampling=Sampling(temperature) if temperature != 1.0 else None,
        )
        case = name if temperature == 1.0 else f"{name} at {temperature:g}"
        results.add_row(
            case,
            unit="BLEU",
            source=Path(args.source).name,
            seed=args.seed,
            length=args.length,
            pretrain_steps=args.pretrain_steps if plays else None,
            game_steps=args.game_steps if plays else None,
            seconds=seconds,
            num_samples=count,
            reference=Path(args.reference).name,
            **{key: figure.value for key, figure in figures.items()},
        )


def shortened(settings: Config, args) -> Config:
    """Return a configuration with the source and the schedule that were asked for."""
    # What is too long for a configuration is cut; the captions of the papers are not.
    text = dataclasses.replace(settings.data.text, long_lines="cut")
    if args.length and text.tokens == "words":
        text = dataclasses.replace(text, length=args.length)
    data = dataclasses.replace(settings.data, source=args.source, text=text)
    model, training = settings.model, dataclasses.replace(settings.train, seed=args.seed)
    if isinstance(model, TextGAN):
        likelihood, game = model.pretrain_steps, training.steps - model.pretrain_steps
        if likelihood and args.pretrain_steps is not None:
            likelihood = args.pretrain_steps
        if args.game_steps is not None:
            game = args.game_steps
        if args.quick:
            likelihood, game = min(likelihood, 1), 3
            if model.discriminator_pretrain_steps:
                model = dataclasses.replace(
                    model, discriminator_pretrain_steps=1, discriminator_steps=2
                )
        model = dataclasses.replace(model, pretrain_steps=likelihood)
        training = dataclasses.replace(training, steps=likelihood + game)
    elif args.quick:
        training = dataclasses.replace(training, steps=4)
    return dataclasses.replace(settings, data=data, model=model, train=training)


if __name__ == "__main__":
    main()
