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

CASES = ("sentences_mle", "sentences_lstm_gan", "sentences_wgan_gp", "sentences_relgan")
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
        runs={"type": Path, "help": "keep the runs here; by default they are thrown away"},
    )
    results = common.Results("sentences", args.out, add_to=True)
    keys = ("case", "source", "seed", "length")
    done = {tuple(row[key] for key in keys) for row in results.known}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.cases:
            if (name, Path(args.source).name, args.seed, args.length) not in done:
                score(results, name, args, args.runs or Path(folder))


def score(results: common.Results, name: str, args, runs: Path) -> None:
    """Train one configuration, and add a row for each temperature that counts."""
    from ganjax import config, measure, train
    from ganjax.config import TextGAN
    from ganjax.generation import Sampling

    settings = config.load_file(name)
    # What is too long for a configuration is cut; the captions of the papers are not.
    text = dataclasses.replace(settings.data.text, long_lines="cut")
    if args.length and text.tokens == "words":
        text = dataclasses.replace(text, length=args.length)
    training = dataclasses.replace(settings.train, seed=args.seed)
    plays = isinstance(settings.model, TextGAN)
    model = settings.model
    if args.quick:
        training = dataclasses.replace(training, steps=4)
        model = dataclasses.replace(model, pretrain_steps=1) if plays and (
            model.pretrain_steps
        ) else model  # fmt: skip
    settings = dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, source=args.source, text=text),
        train=training,
        model=model,
    )
    stem = Path(args.source).name.partition(".")[0]
    directory, seconds = runs / f"{name}-{stem}-{args.seed}", None
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
            seconds=seconds,
            num_samples=count,
            reference=Path(args.reference).name,
            **{key: figure.value for key, figure in figures.items()},
        )


if __name__ == "__main__":
    main()
