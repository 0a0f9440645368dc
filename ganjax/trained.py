"""Trained models from run directories."""

import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ganjax import checkpoint, config
from ganjax.build import Model, build_model
from ganjax.config import Config
from ganjax.run import RunDirectory
from ganjax.types import Array, InputError, Key, TrainState


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model and its weights from a run directory.

    Attributes:
      config: the configuration of the run.
      model: networks, latents, shapes.
      step: of the checkpoint.
      class_names: of the data, may be empty.
      state: a `TrainState` with networks and averages, but without optimizers' states.
    """

    config: Config
    model: Model
    step: int
    class_names: tuple[str, ...]
    state: TrainState

    @property
    def networks(self) -> dict[str, Any]:
        """The Linen modules by name, such as `generator`."""
        return self.model.networks

    @property
    def variables(self) -> dict[str, Any]:
        """What each module's `apply` takes, by name; the running average where there is one."""
        raw = {
            name: {"params": player.params, **player.variables}
            for name, player in self.state.players.items()
        }
        return {**raw, **self.state.ema}

    @property
    def has_styles(self) -> bool:
        """Whether the generator maps latents to styles, as StyleGAN's do."""
        return hasattr(self.networks.get("generator"), "synthesize")

    def sample(
        self,
        key: Key,
        num_samples: int,
        labels: Any = None,
        *,
        latents: Array | None = None,
        truncation: float | None = None,
        ema: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Generate samples in compiled batches.

        Args:
          key: random key.
          num_samples: how many.
          labels: (num_samples,) classes for a conditional model; by default each in turn.
          latents: (num_samples, dimension) to start from; by default drawn.
          truncation: see `ganjax.latents`; of a generator with styles, how far from the mean style
            to go, 1 all the way.
          ema: whether to use the running average where there is one.
          batch_size: samples of one call; by default 256, and 32 on a CPU, where fresh memory for
            larger calls costs more than they save (`python benchmarks/sampling.py`).

        Returns:
          (num_samples, *shape) float32, images in [-1, 1].

        Raises:
          InputError: a label out of range, or labels for a model without classes.
        """
        labels = self.check_labels(labels, num_samples)
        if truncation is not None and not truncation > 0 and not self.has_styles:
            raise InputError(f"truncation has to be positive, got {truncation}")
        if latents is None:
            drawn = None if self.has_styles else truncation
            latents = self.model.latents.sample(key, num_samples, drawn)
        batch_size = batch_size or (32 if jax.default_backend() == "cpu" else 256)
        batch_size = min(batch_size, num_samples)
        parts = []
        for start in range(0, num_samples, batch_size):
            # The last batch is filled up, so that one program serves.
            index = np.minimum(np.arange(start, start + batch_size), num_samples - 1)
            part = self._sample(
                self.state,
                jax.random.fold_in(key, start),
                None if labels is None else labels[index],
                latents[index],
                truncation if self.has_styles else None,
                ema=ema,
            )
            parts.append(np.asarray(part)[: num_samples - start])
        return np.concatenate(parts)

    @functools.cached_property
    def _sample(self):
        def sample(state, key, labels, latents, truncation, *, ema):
            options = {"latents": latents, "truncation": truncation, "ema": ema}
            return self.model.algorithm.sample(state, key, latents.shape[0], labels, **options)

        return jax.jit(sample, static_argnames="ema")

    def check_labels(self, labels: Any, num_samples: int) -> np.ndarray | None:
        """Return labels (num_samples,) int32, repeated in turn where there are fewer."""
        classes = self.model.num_classes
        if labels is None:
            return np.arange(num_samples, dtype=np.int32) % classes if classes else None
        if not classes:
            raise InputError("labels were given, but this model was trained without classes")
        labels = np.asarray(labels, np.int32)
        if labels.size == 0 or labels.min() < 0 or labels.max() >= classes:
            raise InputError(
                f"labels have to lie between 0 and {classes - 1}, got {labels.tolist()}"
            )
        return np.resize(labels, num_samples)


def load(run: str | os.PathLike, step: int | None = None) -> Trained:
    """Load a trained model from a run directory, without its data and its optimizers.

    Args:
      run: the directory.
      step: of the checkpoint; by default the latest sound one.

    Returns:
      Networks, variables and a `sample` function.

    Raises:
      InputError: there is no run or no sound checkpoint.
    """
    directory = RunDirectory(run)
    record = directory.record()
    settings = config.from_json(record["config"])
    model = build_model(settings, record["data"]["shape"], record["data"]["num_classes"])
    shapes = jax.eval_shape(model.algorithm.init, jax.random.key(0))
    like = {
        "step": shapes.step,
        "players": {
            name: {"params": player.params, "variables": player.variables}
            for name, player in shapes.players.items()
        },
        "ema": shapes.ema,
        "hyperparameters": shapes.hyperparameters,
    }
    loaded, metadata = checkpoint.restore_subtree(directory.checkpoints, like, step)
    players = {
        name: shapes.players[name].replace(**loaded["players"][name], opt_state=())
        for name in shapes.players
    }
    state = TrainState(
        step=loaded["step"],
        rollbacks=jnp.int32(0),
        key=jax.random.key(0),
        players=players,
        ema=loaded["ema"],
        augment=(),
        hyperparameters=loaded["hyperparameters"],
        running={},
    )
    class_names = tuple(record["data"].get("class_names", ()))
    return Trained(settings, model, int(metadata["step"]), class_names, state)
