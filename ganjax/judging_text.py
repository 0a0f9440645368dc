"""Samples and scores of the states of a run of text: `TextJudge`."""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ganjax import evaluation, generation, players
from ganjax.autoregressive import likelihood
from ganjax.data import Oracle, load_text
from ganjax.data.tokenizers import UNKNOWN
from ganjax.evaluation.text_table import TEXT_METRICS, TextSamples, check_text_metric
from ganjax.experiment import Experiment
from ganjax.generation import Sampling
from ganjax.text_gan import language_variables
from ganjax.types import InputError, TrainState

_SAMPLE_SEED = 0
_PART = 500  # sequences at a time
_SHOWN_TOKENS = 400  # of each sample of a running text


class TextLook(NamedTuple):
    """What an evaluation has seen of a state: all that needs the device."""

    tokens: np.ndarray | None
    likelihood: dict[str, float] | None
    about: dict[str, Any]


class TextJudge:
    """Samples and scores of the states of one experiment with text, whatever the phase.

    Attributes:
      suffix: of the files that `show` writes.
      unit: what a step trains on.
    """

    suffix, unit = ".txt", "sequences"

    def __init__(self, experiment: Experiment, *, sampling: Sampling = Sampling()):  # noqa: B008
        self._experiment, self._model = experiment, experiment.model
        self._form, self._sampling = experiment.model.text, sampling
        self._settings = experiment.config.evaluation
        self._metrics: tuple[str, ...] = ()
        self._oracle: Oracle | None = None
        self._references: list[list[str]] | None = None
        if self._model.language is not None:
            form = self._form

            def sums(variables, batch):
                return likelihood(
                    self._model.language,
                    variables,
                    batch,
                    start_token=None if form.windows else form.start_token,
                    pad_token=form.pad_token,
                    temperature=sampling.temperature or 1.0,  # not asked for greedy choices
                )

            self._sums = jax.jit(sums)
        self._sample = jax.jit(self._model.algorithm.sample, static_argnums=2)

    def samples(self, state: TrainState) -> np.ndarray:
        """Return tokens that are shown all through a run."""
        if self._form.windows:
            return self.write(state, jax.random.key(_SAMPLE_SEED), 4, length=_SHOWN_TOKENS)
        return self.write(state, jax.random.key(_SAMPLE_SEED), 64)

    def show(self, samples: np.ndarray, path: Path) -> None:
        """Write samples as text, separated by lines; there is no picture to return.

        Those of a conditional model have the name of their class in front, and a tab.
        """
        texts = [self._form.decode(row) for row in samples]
        if names := self._class_names():
            texts = [f"{names[i % len(names)]}\t{text}" for i, text in enumerate(texts)]
        between = f"\n{'-' * 40}\n" if self._form.windows else "\n"
        path.write_text(between.join(texts) + "\n", encoding="utf-8")

    def write(
        self, state: TrainState, key: jax.Array, count: int, *, length: int | None = None
    ) -> np.ndarray:
        """Return what a state writes: (count, length) tokens, of every class in turn."""
        model, form, parts = self._model, self._form, []
        length = length or form.length
        whole = -(-count // _PART) * _PART
        labels = players.default_labels(None, whole, model.num_classes)
        for start in range(0, count, _PART):
            part_key, size = jax.random.fold_in(key, start), min(_PART, count)
            if model.language is None:
                found = self._sample(state, part_key, size)
            else:
                found = generation.sequences(
                    model.language,
                    language_variables(state, self._settings.ema),
                    size,
                    length,
                    start_token=form.start_token,
                    stop_token=form.stop_token,
                    pad_token=form.pad_token,
                    key=part_key,
                    sampling=self._sampling,
                    vocab_size=form.vocab_size,
                    labels=None if labels is None else labels[start : start + size],
                )
            parts.append(np.asarray(found)[: count - start])
        return np.concatenate(parts)

    def diversity(self, samples: np.ndarray) -> tuple[dict[str, float], str | None]:
        """Return the shares of different sequences and of different pairs, and a warning or None.

        The warning is for sequences that repeat far more often than real ones do.
        """
        values = {"samples/duplicates": _duplicates(samples)}
        pairs = np.concatenate([np.stack([row[:-1], row[1:]], 1) for row in self._trimmed(samples)])
        if len(pairs):
            values["samples/distinct_2"] = len(np.unique(pairs, axis=0)) / len(pairs)
        if self._form.windows or self._experiment.train is None or len(samples) < 8:
            return values, None
        usual = _duplicates(_some(self._experiment.train, len(samples)))
        if values["samples/duplicates"] <= 0.2 + usual:
            return values, None
        share = values["samples/duplicates"]
        return values, (
            f"the generator repeats itself: {share:.0%} of {len(samples)} sequences are there "
            f"already, of real ones {usual:.0%}."
        )

    def check(self) -> None:
        """Refuse settings that no score can be had with, before anything is trained.

        Raises:
          InputError: a metric reads what is not there, or the reference cannot be read.
        """
        if self._metrics:
            return
        there, settings = self._there(), self._settings
        if settings.metrics:
            for name in settings.metrics:
                check_text_metric(name, there)
            if "bleu" in settings.metrics:
                self._reference_sentences()
            self._metrics = settings.metrics
        else:
            self._metrics = tuple(
                name
                for name, metric in TEXT_METRICS.items()
                if metric.reads and set(metric.reads) <= there
                if name != "bleu" or importlib.util.find_spec("nltk")
            )
            if "bleu" in self._metrics:  # alone it praises a model that repeats one good sentence
                self._metrics = (*self._metrics, "self_bleu")
        if "oracle" in there:
            self._oracle = Oracle(
                self._form.length, seed=self._experiment.config.data.text.oracle_seed
            )

    def figures(
        self, state: TrainState, *, num_samples: int | None = None, seed: int = 0
    ) -> dict[str, evaluation.Figure]:
        """Return the scores of a state."""
        return self.score(self.look(state, num_samples=num_samples, seed=seed))

    def look(self, state: TrainState, *, num_samples: int | None = None, seed: int = 0) -> TextLook:
        """Write sequences and judge those that were kept away: what the device computes."""
        self.check()
        chosen = [TEXT_METRICS[name] for name in self._metrics]
        count = num_samples or self._settings.num_samples
        tokens = None
        if any(metric.of_samples for metric in chosen):
            tokens = self.write(state, jax.random.key(seed), count)
        sums = None
        if any("likelihood" in metric.reads for metric in chosen):
            sums = self.likelihood(state)
        ema = self._settings.ema if state.ema else None
        return TextLook(tokens, sums, {"seed": seed, "num_samples": count, "ema": ema})

    def likelihood(self, state: TrainState) -> dict[str, float]:
        """Return sums over the data that was kept away: see `TextSamples.likelihood`."""
        held_out = self._experiment.held_out
        variables = language_variables(state, self._settings.ema)
        size = min(128, held_out.num_examples)
        sums: dict[str, float] = {}
        for start in range(0, held_out.num_examples, size):
            rows = np.arange(start, min(start + size, held_out.num_examples))
            batch = {k: jnp.asarray(v, jnp.int32) for k, v in held_out.batch(rows).items()}
            found = self._sums(variables, batch)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {**sums, "characters": float(held_out.num_characters)}

    def score(self, look: TextLook) -> dict[str, evaluation.Figure]:
        """Return the figures of what `look` saw: mostly what the host computes.

        A metric that cannot be had, as of a generator that writes nothing, leaves the others.
        """
        tokens = np.zeros((0, self._form.length), np.int32) if look.tokens is None else look.tokens
        chosen = {name: TEXT_METRICS[name] for name in self._metrics}
        references = []
        if any("references" in metric.reads for metric in chosen.values()):
            references = self._reference_sentences()
        samples = TextSamples(
            [self._form.decode(row).split() for row in tokens],
            tokens,
            references,
            look.likelihood,
            self._oracle,
        )
        figures, failed = {}, None
        for metric in chosen.values():
            try:
                values = metric.compute(samples)
            except InputError as error:
                failed = error
                continue
            about = dict(look.about)
            if not metric.of_samples:
                about = {"ema": about["ema"], "num_samples": int(look.likelihood["count"])}
            about["settings"] = self._written()
            about["reference"] = self._reference_of(metric)
            for (key, name), value in zip(metric.names.items(), values, strict=True):
                figures[key] = evaluation.Figure(name=name, value=float(value), **about)
        if failed is not None and not figures:
            raise failed
        return figures

    def held_out(self, state: TrainState) -> dict[str, float]:
        """Return nothing: what the model says of held-out text is among the figures."""
        del state
        return {}

    def _written(self) -> dict[str, float]:
        """Return what of the sampling is not as the model has it."""
        plain = Sampling()
        values = vars(self._sampling).items()
        return {name: value for name, value in values if value != getattr(plain, name)}

    def _there(self) -> set[str]:
        there, form = set(), self._form
        held_out = self._experiment.held_out
        greedy = self._sampling.temperature == 0  # anything else is infinitely unlikely
        if self._model.language is not None and held_out is not None and not greedy:
            there.add("likelihood")
            # An unknown symbol would count as all the characters that it stands for.
            if form.tokenizer is not None and UNKNOWN not in getattr(form.tokenizer, "symbols", ()):
                there.add("characters")
        if self._experiment.config.data.source == "oracle":
            there.add("oracle")
        other = self._settings.reference != "held out"
        if not form.windows and form.tokenizer is not None and (held_out is not None or other):
            there.add("references")
        return there

    def _reference_of(self, metric) -> str | None:
        if "oracle" in metric.reads:
            return f"oracle {self._oracle.seed}, length {self._oracle.length}"
        if "likelihood" in metric.reads:
            return "held out"
        return self._settings.reference if "references" in metric.reads else None

    def _reference_sentences(self) -> list[list[str]]:
        if self._references is None:
            name, form = self._settings.reference, self._form
            if name in ("held out", "train"):
                source = self._experiment.held_out if name == "held out" else self._experiment.train
                rows = source.batch(np.arange(source.num_examples))["tokens"]
                texts = [form.decode(row) for row in rows]
            else:
                settings = self._experiment.config.data
                # Its words, not its tokens: it may have others.
                found, _ = load_text(
                    name,
                    tokens="words",
                    lines=True,
                    length=10_000,
                    long_lines="cut",
                    held_out=0,
                    split=self._settings.reference_split,
                    data_dir=settings.data_dir,
                    feature=settings.text.feature if name.startswith("tfds:") else None,
                )
                rows = found.batch(np.arange(found.num_examples))["tokens"]
                texts = [found.form.decode(row) for row in rows]
            self._references = [words for text in texts if (words := text.split())]
        return self._references

    def _class_names(self) -> tuple[str, ...]:
        count = self._model.num_classes
        return self._experiment.train.class_names or tuple(map(str, range(count))) if count else ()

    def _trimmed(self, samples: np.ndarray) -> list[np.ndarray]:
        return [self._form.trimmed(row) for row in samples]


def _some(dataset: Any, count: int) -> np.ndarray:
    count = min(count, dataset.num_examples)
    return dataset.batch(np.linspace(0, dataset.num_examples - 1, count).astype(int))["tokens"]


def _duplicates(rows: np.ndarray) -> float:
    return 1.0 - len(np.unique(rows, axis=0)) / max(1, len(rows))


def require_of_text(options: dict[str, Any], source: str) -> None:
    """Raise where options that are for images were given for a run of text."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        flag = given[0].replace("_", "-")
        raise InputError(f"--{flag} is for images, and {source} writes text: leave it out")
