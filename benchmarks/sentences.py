"""How good and how varied are the sentences of each text model? BLEU and self-BLEU.

Trains each configuration on a file of sentences, one a line, unless its run is there already, and
scores 1,000 sentences of it: BLEU against other sentences (--reference), self-BLEU among
themselves. What is trained on the likelihood alone, also the generator that a game begins with, is
scored at several temperatures: a GAN is better where it has a higher BLEU at the same self-BLEU.

    python benchmarks/sentences.py --source coco_train.txt --reference coco_test.txt --out FILE
"""

import dataclasses
import tempfile
from pathlib import Path

import common

from ganjax import config
from ganjax.config import Config, LanguageModel, TextGAN

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
        game_steps={"type": int, "help": "of a text GAN after them"},
        set={
            "default": "",
            "help": "fields of a text GAN's model, such as discriminator_steps=30,num_rollouts=4",
        },
        runs={"type": Path, "help": "keep the runs here; by default they are thrown away"},
    )
    results = common.Results("sentences", args.out, add_to=True)
    keys = ("case", "source", "seed", "length", "settings", "pretrain_steps", "game_steps")
    done = [[row.get(key) or None for key in keys] for row in results.known]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.cases:
            settings = shortened(config.load_file(name), args)
            first = settings.train.steps
            game = 0
            if isinstance(settings.model, TextGAN):
                first = settings.model.pretrain_steps
                game = settings.train.steps - first
            about = [name, Path(args.source).name, args.seed, args.length]
            if game:
                about += [common.fields(args.set), first, game]
            about = [value or None for value in about]
            if about + [None] * (len(keys) - len(about)) not in done:
                score(results, name, settings, first, game, args, args.runs or Path(folder))


def score(results, name, settings, first, game, args, runs: Path) -> None:
    """Train one configuration, and add a row for each temperature that counts."""
    stem = Path(args.source).name.partition(".")[0]
    plays = game > 0
    directory = runs / f"{name}-{stem}-{args.seed}"
    if first:
        model = settings.model
        if plays:
            model = LanguageModel(model.network, optimizer=model.pretrain)
            directory = directory.with_name(f"{directory.name}-{first}")
        training = dataclasses.replace(settings.train, steps=first)
        alone = dataclasses.replace(settings, model=model, train=training)
        temperatures = TEMPERATURES[: 1 if args.quick else None]
        title = f"the likelihood of {name}" if plays else name
        add(results, title, alone, directory, args, (first, 0) if plays else (), temperatures)
    if plays:
        model = dataclasses.replace(settings.model, pretrain_steps=0)
        start = str(directory) if first else None
        training = dataclasses.replace(settings.train, steps=game, init_from=start)
        settings = dataclasses.replace(settings, model=model, train=training)
        names = [str(game), *(f"{key}-{value}" for key, value in common.fields(args.set).items())]
        directory = directory.with_name("-".join([directory.name, *names]))
        add(results, name, settings, directory, args, (first, game))


def add(results, title, settings, directory, args, steps=(), temperatures=(1.0,)) -> None:
    """Train one run, unless it is there, and add its rows."""
    from ganjax import measure, train
    from ganjax.generation import Sampling

    seconds, plays = None, isinstance(settings.model, TextGAN)
    if not (directory / "evaluation.json").exists():
        seconds = train.train(settings, str(directory)).seconds
    count = 50 if args.quick else 1000
    for temperature in temperatures:
        figures, _ = measure.evaluate(
            str(directory),
            metrics=("bleu", "self_bleu"),
            num_samples=count,
            reference=args.reference,
            sampling=Sampling(temperature) if temperature != 1.0 else None,
        )
        results.add_row(
            title if temperature == 1.0 else f"{title} at {temperature:g}",
            unit="BLEU",
            source=Path(args.source).name,
            seed=args.seed,
            length=args.length,
            settings=common.fields(args.set) if plays else {},
            pretrain_steps=steps[0] if steps else None,
            game_steps=steps[1] if steps else None,
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
    if args.quick:
        text = dataclasses.replace(text, vocab_size=1000)
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
                    model, discriminator_pretrain_steps=1, discriminator_steps=2, num_rollouts=1
                )
        model = dataclasses.replace(model, pretrain_steps=likelihood, **common.fields(args.set))
        training = dataclasses.replace(training, steps=likelihood + game)
    elif args.quick:
        training = dataclasses.replace(training, steps=4)
    return dataclasses.replace(settings, data=data, model=model, train=training)


if __name__ == "__main__":
    main()
