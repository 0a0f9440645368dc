"""Trained models from run directories."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ganjax import checkpoint, config, players
from ganjax.build import build_model, images_per_call, with_standing_statistics
from ganjax.config import Config
from ganjax.data import TextForm
from ganjax.experiment import Model
from ganjax.files import of_file
from ganjax.networks.layers import as_network
from ganjax.projection import Projection, mean_squared_distance, project
from ganjax.run import CONFIG, RunDirectory
from ganjax.trained_text import TrainedText, load_text_run
from ganjax.types import Array, InputError, Key, TrainState, as_float_images


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
          labels: (num_samples,) classes of a conditional model, by number or name; by default each
            in turn.
          latents: (num_samples, dimension) to start from; by default drawn.
          truncation: see `ganjax.latents`; of a generator with styles, how far from the mean style
            to go, 1 all the way.
          ema: whether to use the running average where there is one.
          batch_size: samples of one call; by default 256, and 32 on a CPU, where fresh memory for
            larger calls costs more than they save (`python benchmarks/sampling.py`); fewer of
            images above 64x64.

        Returns:
          (num_samples, *shape) float32, images in [-1, 1].

        Raises:
          InputError: a label out of range, or labels for a model without classes.
        """
        labels = self.check_labels(labels, num_samples)
        if truncation is not None and not truncation > 0 and not self.has_styles:
            raise InputError(f"truncation has to be positive, got {truncation}")
        if latents is not None and len(latents) != num_samples:
            raise InputError(f"{num_samples} samples were asked for with {len(latents)} latents")
        if latents is None:
            drawn = None if self.has_styles else truncation
            latents = self.model.latents.sample(key, num_samples, drawn)
        most = 32 if jax.default_backend() == "cpu" else 256
        batch_size = batch_size or images_per_call(self.model.shape, most)
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

    def with_standing_statistics(self, num_batches: int, *, batch_size: int = 64) -> "Trained":
        """Return the model with batch statistics gathered anew, for a generator with batch norm.

        See `ganjax.networks.standing.standing_statistics`.
        """
        state = with_standing_statistics(self.model, self.state, num_batches, batch_size=batch_size)
        return dataclasses.replace(self, state=state)

    def map(
        self, latents: Array, labels: Any = None, *, truncation: float = 1.0, ema: bool = True
    ) -> Array:
        """Return the styles (N, num_styles, dimension) of latents (N, dimension).

        Raises:
          InputError: the generator has no styles.
        """
        network, variables = self._style_network(ema)
        given = {"train": False, "key": jax.random.key(0), "truncation": truncation}
        if not isinstance(labels, jax.core.Tracer):  # inside a jit they have been checked
            labels = self.check_labels(labels, len(latents))
        return network.map(variables, jnp.asarray(latents), labels, **given)[0]

    def synthesize(self, styles: Array, *, key: Key | None = None, ema: bool = True) -> Array:
        """Return the images (N, H, W, C) in [-1, 1] of styles (N, num_styles, dimension)."""
        network, variables = self._style_network(ema)
        key = jax.random.key(0) if key is None else key
        images, _ = network.synthesize(variables, jnp.asarray(styles), train=False, key=key)
        return images.astype(jnp.float32)

    def _style_network(self, ema):
        if not self.has_styles:
            raise InputError(
                f"{type(self.config.model.network).__name__} has no styles; StyleGAN2 has"
            )
        raw = players.all_variables(self.state.players["generator"])
        variables = self.state.ema.get("generator", raw) if ema else raw
        return as_network(self.networks["generator"]), variables

    def project(
        self,
        images: Array | np.ndarray,
        labels: Any = None,
        *,
        features: Callable[[Array], Array] | None = None,
        num_steps: int = 500,
        learning_rate: float = 0.1,
        each_layer: bool = False,
        seed: int = 0,
        ema: bool = True,
    ) -> Projection:
        """Find the latents, or the styles where there are any, of given images.

        Styles start at their mean. Latents start at the best of 64 random ones.

        Args:
          images: (N, H, W, C), uint8 or float in [-1, 1], of the model's shape.
          labels: (N,) classes of a conditional model, by number or name.
          features: what images are compared in; by default pixels. See `ganjax.projection.project`.
          num_steps: updates.
          learning_rate: of Adam at its highest.
          each_layer: give each layer a style of its own: nearer to the image, further from what
            the generator knows.
          seed: of random starts and of the noise.
          ema: whether to use the running average where there is one.

        Raises:
          InputError: images of another shape, or `each_layer` without styles.
        """
        images = jnp.asarray(images)
        if images.shape[1:] != self.model.shape:
            raise InputError(
                f"this model makes images of shape {self.model.shape}, those to project have "
                f"{images.shape[1:]}"
            )
        labels = self.check_labels(labels, len(images))
        key, search_key = jax.random.split(jax.random.key(seed))
        common = {"features": features, "num_steps": num_steps, "key": key}
        if self.has_styles:
            samples = self.model.latents.sample(search_key, 1024)
            spread = jnp.std(self.map(samples, ema=ema)[:, 0])
            zeros = jnp.zeros((len(images), self.model.latents.dimension))
            start = self.map(zeros, labels, truncation=0.0, ema=ema)
            layers = start.shape[1]

            def of_styles(styles):
                shape = (styles.shape[0], layers, styles.shape[2])
                return self.synthesize(jnp.broadcast_to(styles, shape), key=key, ema=ema)

            start = start if each_layer else start[:, :1]
            rate = learning_rate
            return project(of_styles, images, start, learning_rate=rate, spread=spread, **common)
        if each_layer:
            self._style_network(ema)  # says that there are none

        def of_latents(points):
            return self.model.algorithm.sample(
                self.state, key, len(points), labels, latents=points, ema=ema
            )

        start = self._nearest(of_latents, images, features, search_key)
        return project(of_latents, images, start, learning_rate=learning_rate, **common)

    def _nearest(self, generate, images, features, key, candidates=64):
        """Return for each image the best of some random latents."""
        features = features or (lambda images: images)
        wanted = features(as_float_images(images))

        @jax.jit
        def best(key, wanted):
            def better(carry, key):
                points, least = carry
                fresh = self.model.latents.sample(key, len(images))
                distance = mean_squared_distance(features(generate(fresh)), wanted)
                wins = distance < least
                return (jnp.where(wins[:, None], fresh, points), jnp.minimum(distance, least)), ()

            nothing = jnp.zeros((len(images), self.model.latents.dimension))
            carry = nothing, jnp.full(len(images), jnp.inf)
            return jax.lax.scan(better, carry, jax.random.split(key, candidates))[0][0]

        return best(key, wanted)

    def check_labels(self, labels: Any, num_samples: int) -> np.ndarray | None:
        """Return labels (num_samples,) int32: see `ganjax.players.labels_in_turn`."""
        return players.labels_in_turn(labels, num_samples, self.model.num_classes, self.class_names)


def load_image_run(run: str | os.PathLike, step: int | None = None) -> Trained:
    """As `load`, for what is done with images or points alone.

    Raises:
      InputError: also where the run writes text.
    """
    trained = load(run, step)
    if isinstance(trained, TrainedText):
        raise InputError(f"{run} writes text: this is for models of images")
    return trained


def load(run: str | os.PathLike, step: int | None = None) -> Trained | TrainedText:
    """Load a trained model from a run directory, without its data and its optimizers.

    Args:
      run: the directory.
      step: of the checkpoint; by default the latest sound one.

    Returns:
      Networks, variables and a `sample` function; of a run of text a `TrainedText`, which writes.

    Raises:
      InputError: there is no run or no sound checkpoint.
    """
    directory = RunDirectory(run)
    record = directory.record()
    data = record["data"]
    with of_file(f"{directory.shown}/{CONFIG}"):
        settings = config.from_json(record["config"])
        form = None if data.get("text") is None else TextForm.from_json(data["text"])
        if not {"shape", "num_classes"} <= set(data):
            raise InputError("data has no shape or no num_classes")
        model = build_model(settings, data["shape"], data["num_classes"], form)
    class_names = tuple(data.get("class_names", ()))
    if form is not None:
        return load_text_run(directory, settings, model, class_names, step)
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
    return Trained(settings, model, int(metadata["step"]), class_names, state)
