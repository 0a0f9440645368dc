"""What the terms of a player's loss see of the two networks."""

from collections.abc import Callable
from dataclasses import dataclass

from ganjax.types import Array, DiscriminatorOutput, Key


@dataclass(frozen=True)
class Judge:
    """A fixed discriminator: `judge(images, labels, key) -> logits (B,)`.

    Attributes:
      output: `(images, labels, key) -> DiscriminatorOutput`.
    """

    output: Callable[[Array, Array | None, Key], DiscriminatorOutput]

    def __call__(self, images: Array, labels: Array | None, key: Key) -> Array:
        return self.output(images, labels, key).logits


@dataclass(frozen=True)
class DiscriminatorView:
    """The discriminator in its own update: `view(images) -> logits (B,)`.

    Attributes:
      output: `(images) -> DiscriminatorOutput`, with the random numbers of the pass over real
        images, so that a compiler can share it with that pass.
      fake_output: the same with those of the pass over fake images.
      labels: of the batch, or None.
    """

    output: Callable[[Array], DiscriminatorOutput]
    fake_output: Callable[[Array], DiscriminatorOutput]
    labels: Array | None

    def __call__(self, images: Array) -> Array:
        return self.output(images).logits

    def on_fake(self, images: Array) -> Array:
        """Return logits (B,) of fake images."""
        return self.fake_output(images).logits


@dataclass(frozen=True)
class GeneratorView:
    """The generator in its own update: `view(latents) -> images`.

    Attributes:
      generate: `(latents) -> images`, with the random numbers of the main pass.
      discriminate: `(images) -> DiscriminatorOutput` of the fixed discriminator, with those of the
        main pass.
      labels: of the batch, or None.
      map: `(latents, labels) -> styles` of a generator with styles, otherwise None.
      synthesize: `(styles) -> images`.
    """

    generate: Callable[[Array], Array]
    discriminate: Callable[[Array], DiscriminatorOutput] | None
    labels: Array | None
    map: Callable[[Array, Array | None], Array] | None = None
    synthesize: Callable[[Array], Array] | None = None

    def __call__(self, latents: Array) -> Array:
        return self.generate(latents)
