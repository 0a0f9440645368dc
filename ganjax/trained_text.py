"""Trained models of text from run directories."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ganjax import checkpoint, generation
from ganjax.autoregressive import log_probabilities
from ganjax.beams import beam_search
from ganjax.config import Config
from ganjax.data import TextForm
from ganjax.data.tokenizers import Symbols
from ganjax.experiment import Model
from ganjax.generation import Sampling
from ganjax.players import labels_in_turn
from ganjax.run import RunDirectory
from ganjax.text_gan import language_variables
from ganjax.types import InputError, Key, Player, TrainState

_CHUNK = 16  # tokens between two pieces of a stream
# Compiled once for all texts of a model.
_begin = jax.jit(
    generation.begin, static_argnames=("network", "length", "known", "vocab_size", "pad_token")
)
_advance = jax.jit(generation.advance, static_argnames=("network", "stop_token", "pad_token"))


@dataclasses.dataclass(frozen=True)
class TrainedText:
    """A model of text and its weights from a run directory.

    Attributes:
      config: the configuration of the run.
      model: networks, form of the text.
      step: of the checkpoint.
      class_names: of the data, may be empty.
      state: a `TrainState` with the generator and its average, and nothing else.
    """

    config: Config
    model: Model
    step: int
    class_names: tuple[str, ...]
    state: TrainState

    @property
    def form(self) -> TextForm:
        """What the tokens are."""
        return self.model.text

    def write(
        self,
        prompt: str = "",
        num: int = 1,
        *,
        key: Key,
        labels: Any = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 it is frozen
        ema: bool = True,
    ) -> list[str]:
        """Write texts, all at once.

        Args:
          prompt: with which each begins.
          num: how many.
          key: random key.
          labels: classes of a conditional model, by number or name; by default each in turn.
          max_new_tokens: of each; by default 500 of a running text, and a whole line of lines.
          sampling: how tokens are chosen.
          ema: whether to use the running average where there is one.

        Returns:
          The texts, each with its prompt.

        Raises:
          InputError: the prompt has a symbol that the model does not know, a number is out of its
            range, or there is no such class.
        """
        if num < 1:
            raise InputError(f"the number of texts has to be 1 or more, got {num}")
        labels = self.check_labels(labels, num)
        if self.model.language is None:
            self._refuse(prompt, max_new_tokens, sampling)
            tokens = self.model.algorithm.sample(self.state, key, num, ema=ema)
            return [self.form.decode(row) for row in np.asarray(tokens)]
        first, given = self._first(prompt)
        tokens = generation.generate(
            self.model.language,
            language_variables(self.state, ema),
            np.tile(first, (num, 1)),
            self._count(max_new_tokens, given),
            key=key,
            labels=labels,
            sampling=sampling,
            stop_token=self.form.stop_token,
            pad_token=self.form.pad_token or 0,
            vocab_size=self.form.vocab_size,
        )
        rows = np.asarray(tokens)[:, len(first) - given :]
        return [self._as_typed(self.form.decode(row), prompt) for row in rows]

    def stream(
        self,
        prompt: str = "",
        *,
        key: Key,
        label: int | str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 it is frozen
        ema: bool = True,
    ) -> Iterator[str]:
        """Yield the pieces of one text as they are written; together what `write` returns of one.

        The arguments are those of `write`, of which it has one label.
        """
        labels = self.check_labels(None if label is None else [label], 1)
        if self.model.language is None:
            given = {"max_new_tokens": max_new_tokens, "sampling": sampling, "ema": ema}
            yield self.write(prompt, key=key, **given)[0]
            return
        sampling.check()
        first, given = self._first(prompt)
        count = self._count(max_new_tokens, given)
        length, network = len(first) + count, self.model.language
        variables = language_variables(self.state, ema)
        settings = {
            "max_new_tokens": count,
            "stop_token": self.form.stop_token,
            "pad_token": self.form.pad_token or 0,
            "labels": labels,
        }
        penalty = sampling.repetition_penalty is not None
        writing = _begin(
            network,
            variables,
            first[None],
            np.array([len(first)]),
            length,
            key,
            known=len(first),
            vocab_size=self.form.vocab_size if penalty else None,
            pad_token=settings["pad_token"],
            labels=labels,
        )
        shown = ""
        for until in range(len(first), length + _CHUNK, _CHUNK):
            until = min(until, length)
            writing = _advance(network, variables, writing, until, sampling=sampling, **settings)
            text = self.form.decode(np.asarray(writing.tokens)[0, len(first) - given : until])
            text = self._as_typed(text, prompt)
            whole = text.rstrip("\ufffd")  # the first bytes of a character that is still to come
            done = until == length or bool(writing.finished[0])
            text = text if done else whole
            yield text[len(shown) :]
            shown = text
            if done:
                return

    def beam_search(
        self,
        prompt: str = "",
        num_beams: int = 5,
        num_return: int = 1,
        *,
        label: int | str | None = None,
        max_new_tokens: int | None = None,
        ema: bool = True,
    ) -> list[tuple[str, float]]:
        """Search for the likeliest continuations of a prompt: see `ganjax.beams.beam_search`.

        Args:
          prompt: with which each begins.
          num_beams: continuations that are followed at a time.
          num_return: how many to return.
          label: the class, for a conditional model; by default the first.
          max_new_tokens: of each; by default as many as the model sees at once.
          ema: whether to use the running average where there is one.

        Returns:
          The texts with their prompt, the best first, and their mean log-probability a token.

        Raises:
          InputError: as `write`.
        """
        if self.model.language is None:
            raise InputError(f"{type(self.config.model.network).__name__} has no likelihood")
        first, given = self._first(prompt)
        count = self._count(max_new_tokens, given)
        if max_new_tokens is None and self.form.windows:
            count = max(1, self.form.length + 1 - len(first))
        tokens, scores = beam_search(
            self.model.language,
            language_variables(self.state, ema),
            first[None],
            count,
            num_beams=num_beams,
            num_return=num_return,
            labels=self.check_labels(None if label is None else [label], 1),
            stop_token=self.form.stop_token,
            pad_token=self.form.pad_token or 0,
        )
        rows = np.asarray(tokens)[0, :, len(first) - given :]
        texts = [self._as_typed(self.form.decode(row), prompt) for row in rows]
        return list(zip(texts, np.asarray(scores)[0].tolist(), strict=True))

    def log_likelihood(
        self, text: str, *, label: int | str | None = None, ema: bool = True
    ) -> float:
        """Return the log-probability of a text, in nats, and for lines that of its end as well.

        Args:
          text: what to judge.
          label: its class, for a conditional model.
          ema: whether to use the running average where there is one.

        Raises:
          InputError: the model cannot take the text, a running text is empty, or the class is
            missing or does not exist.
        """
        if self.model.language is None:
            raise InputError(f"{type(self.config.model.network).__name__} has no likelihood")
        form = self.form
        tokens = self._encode(text)
        if not form.windows:
            tokens = np.append(tokens, form.stop_token)
        if not len(tokens):
            raise InputError("the text is empty: give it one symbol or more")
        context = self.model.language.context
        if context is not None and len(tokens) > context:
            raise InputError(f"the text has {len(tokens)} tokens, the model looks at {context}")
        if label is None and self.model.num_classes:
            raise InputError("this model judges a text as one of a class: give a label")
        labels = self.check_labels(None if label is None else [label], 1)
        found, _ = log_probabilities(
            self.model.language,
            language_variables(self.state, ema),
            jnp.asarray(tokens)[None],
            labels,
            start_token=form.start_token,
        )
        return float(jnp.sum(found))

    def check_labels(self, labels: Any, num: int) -> np.ndarray | None:
        """Return labels (num,) int32: see `ganjax.players.labels_in_turn`."""
        return labels_in_turn(labels, num, self.model.num_classes, self.class_names)

    def name_of(self, label: int) -> str:
        """Return what a class is called: its number where it has no name."""
        return self.class_names[label] if self.class_names else str(label)

    def _count(self, asked: int | None, given: int) -> int:
        if asked is not None and asked < 1:
            raise InputError(f"the number of new tokens has to be 1 or more, got {asked}")
        if self.form.windows:
            return 500 if asked is None else asked
        most = self.form.length - given
        if most < 1:
            raise InputError(
                f"the prompt has {given} tokens, and the model's lines have {self.form.length} "
                "with their end: shorten it"
            )
        return most if asked is None else min(asked, most)

    def _first(self, prompt: str) -> tuple[np.ndarray, int]:
        """Return the tokens to begin with, and how many of them are the prompt's."""
        tokens = self._encode(prompt) if prompt else np.zeros(0, np.int32)
        if self.form.windows and len(tokens):
            return tokens, len(tokens)
        return np.concatenate([[self.form.start_token], tokens]).astype(np.int32), len(tokens)

    def _as_typed(self, text: str, prompt: str) -> str:
        """Return a text that begins with a prompt, with the words that the model does not know."""
        tokenizer = self.form.tokenizer
        if not isinstance(tokenizer, Symbols):
            return text
        typed = " ".join(prompt.split()) if tokenizer.words else prompt
        return typed + text.removeprefix(tokenizer.decode(tokenizer.encode(prompt)))

    def _encode(self, text: str) -> np.ndarray:
        if self.form.tokenizer is None:
            raise InputError("this model's tokens stand for nothing: it takes no text")
        try:
            return self.form.tokenizer.encode(text)
        except (InputError, UnicodeEncodeError) as error:
            raise InputError(f"this text does not fit the model: {error}") from error

    def _refuse(self, prompt: str, tokens: int | None, sampling: Sampling) -> None:
        if prompt or tokens is not None or sampling != Sampling():
            network = type(self.config.model.network).__name__
            raise InputError(
                f"{network} writes whole sequences from latents: leave the prompt out, the number "
                "of tokens, and how they are chosen"
            )


def load_text_run(
    directory: RunDirectory,
    settings: Config,
    model: Model,
    class_names: tuple[str, ...],
    step: int | None,
) -> TrainedText:
    """Read the generator of a run of text, of whichever phase its checkpoint is."""
    if model.language is None:
        shapes = jax.eval_shape(model.algorithm.init, jax.random.key(0))
        generator, average = shapes.players["generator"], shapes.ema
        variables = {"params": generator.params, "variables": generator.variables}
    else:
        labels = jnp.zeros(1, jnp.int32) if model.num_classes else None
        params = jax.eval_shape(
            model.language.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32), labels
        )["params"]
        variables: dict[str, Any] = {"params": params}
        averaged = settings.model.ema_half_life_images is not None
        average = {"generator": {"params": params}} if averaged else {}
    like = {"players": {"generator": variables}, "ema": average}
    loaded, metadata = checkpoint.restore_subtree(directory.checkpoints, like, step)
    found = loaded["players"]["generator"]
    state = TrainState(
        step=jnp.int32(metadata["step"]),
        rollbacks=jnp.int32(0),
        key=jax.random.key(0),
        players={"generator": Player(found["params"], found.get("variables", {}), ())},
        ema=loaded["ema"],
        augment=(),
        hyperparameters={},
        running={},
    )
    return TrainedText(settings, model, int(metadata["step"]), class_names, state)
