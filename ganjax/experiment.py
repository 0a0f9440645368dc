"""What a configuration makes: a `Model`, the phases of its training, an `Experiment`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ganjax.config import Config
from ganjax.data import Dataset, TextForm
from ganjax.latents import Latents
from ganjax.types import Algorithm, Array, Network, TrainState


class Model(NamedTuple):
    """What a configuration makes for data of one shape.

    Attributes:
      algorithm: how it is trained and sampled.
      networks: Linen modules by player's name.
      latents: distribution of what is sampled from.
      shape: of one example, such as (28, 28, 1); of text (length, vocabulary size).
      num_classes: 0 where unconditional.
      reconstruct: `(state, images, labels, ema) -> images` for a model that can, or None.
      text: what the tokens are of a model of text, or None.
      language: the generator where it is a language model, or None.
      earlier: phases of the training before the last.
      transfer: of the last phase, where there are earlier ones.
    """

    algorithm: Algorithm
    networks: dict[str, Any]
    latents: Latents | None
    shape: tuple[int, ...]
    num_classes: int
    reconstruct: Callable[..., Array] | None = None
    text: TextForm | None = None
    language: Network | None = None
    earlier: "tuple[Phase, ...]" = ()
    transfer: Callable[[TrainState, TrainState | None], TrainState] | None = None

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example in a batch: of text the number of its tokens."""
        if self.text is None:
            return self.shape
        return (self.text.length + self.text.windows,)


class Phase(NamedTuple):
    """A part of a run with one algorithm.

    Attributes:
      algorithm: what trains.
      steps: for how long.
      transfer: `(fresh state, state of the phase before or None) -> state` to start from, or None
        for the fresh one.
    """

    algorithm: Algorithm
    steps: int
    transfer: Callable[[TrainState, TrainState | None], TrainState] | None = None


class Experiment(NamedTuple):
    """Everything a run needs.

    Attributes:
      config: what it was made from.
      model: the model that the last phase ends with.
      phases: one after another.
      train: the data to train on.
      held_out: the data kept away, or None.
    """

    config: Config
    model: Model
    phases: Sequence[Phase]
    train: Dataset
    held_out: Dataset | None
