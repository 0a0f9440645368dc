"""Which transforms ADA's pipe makes, how often and how far.

References:
  Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676.
  Huang et al. 2024, The GAN is dead; long live the GAN! (R3GAN), arXiv:2501.05441.
"""

import dataclasses

from ganjax.types import InputError

_BLIT = ("xflip", "rotate90", "xint")
_GEOMETRY = ("scale", "rotate", "aniso", "xfrac")
_COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")


@dataclasses.dataclass(frozen=True)
class Pipe:
    """A pipe of random transforms, all of them off.

    A transform happens to an image with its strength, given here, times the pipe's probability.

    Attributes:
      xflip: mirrors left and right (one time in two, as every strength of 1 means that the
        transform is drawn, not that it shows).
      rotate90: turns by a multiple of 90 degrees.
      xint: moves by whole pixels.
      scale: enlarges or shrinks.
      rotate: turns by any angle, before and after `aniso`.
      aniso: stretches one dimension and squeezes the other.
      xfrac: moves by any distance.
      brightness: adds to all channels.
      contrast: multiplies all channels.
      lumaflip: mirrors the colours along the axis of greys.
      hue: turns the colours around the axis of greys; three channels only.
      saturation: scales the distance from the axis of greys; three channels only.
      imgfilter: amplifies each of four bands of frequencies.
      noise: adds white noise.
      cutout: sets a rectangle to zero.
      xint_max: of the width and height.
      scale_std: of the logarithm to base 2.
      rotate_max: 1 is the whole circle.
      aniso_std: of the logarithm to base 2.
      xfrac_std: of the width and height.
      brightness_std: images lie in [-1, 1].
      contrast_std: of the logarithm to base 2.
      hue_max: 1 is the whole circle.
      saturation_std: of the logarithm to base 2.
      imgfilter_bands: strength of each band, from low to high frequencies, times `imgfilter`.
      imgfilter_std: of the logarithm to base 2.
      noise_std: of the standard deviation of the noise, which is half-normal.
      cutout_size: of the width and height.
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    imgfilter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0

    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    imgfilter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    imgfilter_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __post_init__(self):
        """Refuse what is no multiplier of a probability.

        Raises:
          ValueError: for a strength below zero, or bands that are not four.
        """
        for name in STRENGTHS:
            if not getattr(self, name) >= 0:
                raise ValueError(f"a strength is 0 (off) or more, got {name}={getattr(self, name)}")
        if len(self.imgfilter_bands) != 4 or not min(self.imgfilter_bands) >= 0:
            raise ValueError(f"imgfilter_bands are 4 strengths, got {self.imgfilter_bands}")

    @property
    def geometric(self) -> bool:
        """Whether a transform that moves pixels is on."""
        return any(getattr(self, name) for name in (*_BLIT, *_GEOMETRY))

    @property
    def colored(self) -> bool:
        """Whether a transform of colours is on."""
        return any(getattr(self, name) for name in _COLOR)


STRENGTHS = (*_BLIT, *_GEOMETRY, *_COLOR, "imgfilter", "noise", "cutout")


def _on(*groups: tuple[str, ...], **strengths: float) -> Pipe:
    return Pipe(**{name: 1.0 for group in groups for name in group}, **strengths)


# The names of the official implementation, and the first letters alone.
PIPES: dict[str, Pipe] = {
    "b": _on(_BLIT),
    "blit": _on(_BLIT),
    "g": _on(_GEOMETRY),
    "geom": _on(_GEOMETRY),
    "c": _on(_COLOR),
    "color": _on(_COLOR),
    "filter": Pipe(imgfilter=1.0),
    "noise": Pipe(noise=1.0),
    "cutout": Pipe(cutout=1.0),
    "bg": _on(_BLIT, _GEOMETRY),
    "bgc": _on(_BLIT, _GEOMETRY, _COLOR),
    "bgcf": _on(_BLIT, _GEOMETRY, _COLOR, imgfilter=1.0),
    "bgcfn": _on(_BLIT, _GEOMETRY, _COLOR, imgfilter=1.0, noise=1.0),
    "bgcfnc": _on(_BLIT, _GEOMETRY, _COLOR, imgfilter=1.0, noise=1.0, cutout=1.0),
    "r3gan": _on(_BLIT, _GEOMETRY, cutout=1.0, **dict.fromkeys(_COLOR, 0.5)),
}


def as_pipe(pipe: str | Pipe) -> Pipe:
    """Return a pipe as it is, and the one of a name.

    Raises:
      InputError: for a name that is not in `PIPES`.
    """
    if isinstance(pipe, Pipe):
        return pipe
    if pipe not in PIPES:
        raise InputError(f"a pipe is one of {', '.join(PIPES)}, or a Pipe; got {pipe!r}")
    return PIPES[pipe]
