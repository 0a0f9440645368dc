"""One image: decoding with Pillow, and bringing it to the wanted size and channels."""

import contextlib
import ctypes
import dataclasses
import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ganjax import files
from ganjax.types import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
RESIZE_RULES = ("crop", "stretch", "pad")
# A small file can claim to hold any number of pixels; this many take 270 MB as RGB.
MAX_PIXELS = 90_000_000
# One at a time beyond this many pixels: each takes up to 16 bytes while it is decoded.
_LARGE_PIXELS = 16_000_000
_large = threading.Lock()
# The kinds that are decoded, whatever a file is called. Pillow knows many more, among them EPS,
# for which it runs another program.
_KINDS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclasses.dataclass(frozen=True)
class ImageRule:
    """How images are brought to one shape.

    Attributes:
      size: (height, width), or None to keep each image as it is.
      channels: 1 (grey), 3 (RGB), 4 (RGBA), or None to keep what there is.
      resize: what happens where the size differs. All rules use an antialiased Lanczos filter.
        "crop" scales the image until it just covers the target and cuts the middle out;
        "stretch" scales both sides independently;
        "pad" scales the image until it just fits into the target and adds black (with four
        channels transparent black) on both sides.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    resize: str = "crop"

    def __post_init__(self):
        if self.resize not in RESIZE_RULES:
            raise InputError(
                f"data.resize is {self.resize!r}, expected one of {', '.join(RESIZE_RULES)}."
            )
        if self.channels not in (None, 1, 3, 4):
            raise InputError(
                f"data.channels is {self.channels}, expected 1 (grey), 3 (RGB), 4 (RGBA) or none."
            )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError(
                f"data.image_size is {self.size}, expected a height and a width of at least 1."
            )


def decode(file: BinaryIO, name: str, rule: ImageRule) -> np.ndarray:
    """Decode one image file.

    The EXIF orientation is applied; of an animation the first frame is taken; 16 bits a channel
    keep the upper 8; palette, CMYK and other colour spaces become RGB. Where a transparent image
    is to have 1 or 3 channels it is laid on white.

    Args:
      file: the open file.
      name: of the file, for the messages.
      rule: size and channels of the result.

    Returns:
      uint8 (H, W, C).

    Raises:
      InputError: if it is broken, no image, or too large; the message names the file.
    """
    from PIL import ImageOps

    image = _open(file, name)
    with _alone(image):
        try:
            # Decodes the pixels: a truncated file is noticed here.
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return fit(_eight_bits(image, name), rule)
        except InputError:
            raise
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        except Exception as error:
            raise _broken(name, error) from error


def header(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """Return the (height, width, channels) that `decode` would give without a rule.

    Raises:
      InputError: as `decode`, as far as the first bytes tell.
    """
    image = _open(file, name)
    width, height = image.size
    with _alone(image):
        try:
            # Orientations 5 to 8 swap the sides. 0x0112 is EXIF's number of the orientation. Of a
            # .png Pillow decodes all pixels, as EXIF may come after them.
            if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
        except Exception as error:
            raise _broken(name, error) from error
        return height, width, _channels(image)


def fit(image: "Image.Image", rule: ImageRule) -> np.ndarray:
    """Return a Pillow image of mode L, RGB or RGBA as uint8 (H, W, C) after the rule."""
    from PIL import Image, ImageOps

    channels = rule.channels or len(image.getbands())
    if image.mode == "RGBA" and channels != 4:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    if rule.size is not None and image.size != rule.size[::-1]:
        size = rule.size[::-1]  # Pillow's order: width, height.
        if rule.resize == "crop":
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        elif rule.resize == "stretch":
            image = image.resize(size, Image.Resampling.LANCZOS)
        else:
            image = ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=0)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def fit_arrays(images: np.ndarray, name: str, rule: ImageRule) -> np.ndarray:
    """Return images uint8 (N, H, W, C) after the rule, (N, H', W', C').

    Raises:
      InputError: if there are not 1, 3 or 4 channels.
    """
    from PIL import Image

    if images.shape[-1] not in _MODES:
        raise InputError(
            f"the images of {name} have {images.shape[-1]} channels, expected 1, 3 or 4 in the "
            "last axis: store them as (number, height, width, channels)."
        )
    same_size = rule.size in (None, images.shape[1:3])
    if same_size and rule.channels in (None, images.shape[-1]):
        return images
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    first = fit(Image.fromarray(squeezed[0]), rule)
    result = np.empty((len(images), *first.shape), np.uint8)
    for i, image in enumerate(squeezed):
        result[i] = fit(Image.fromarray(image), rule)
    return result


@contextlib.contextmanager
def _alone(image: "Image.Image") -> Iterator[None]:
    """Let threads decode large images one after another, and give their memory back."""
    if image.size[0] * image.size[1] <= _LARGE_PIXELS:
        yield
        return
    with _large:
        try:
            yield
        finally:
            image.im = None  # not close(), which may close the file as well
            # Pillow takes memory in pieces that the C library keeps for each thread.
            with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
                ctypes.CDLL(None).malloc_trim(0)


def _open(file: BinaryIO, name: str) -> "Image.Image":
    from PIL import Image

    too_large = InputError(
        f"{name} holds more than {MAX_PIXELS // 1_000_000} million pixels: shrink it or take it "
        "away."
    )
    try:
        image = Image.open(file, formats=_kinds())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except Exception as error:
        raise _broken(name, error) from error
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise too_large
    return image


@functools.cache
def _kinds() -> tuple[str, ...]:
    from PIL import Image

    Image.init()  # else Pillow would, at the first file that is none of the common kinds
    return tuple(kind for kind in _KINDS if kind in Image.OPEN)


def _broken(name: str, error: Exception) -> InputError:
    known = type(error).__name__ != "UnidentifiedImageError"
    reason = files.reason(error) if known else "it is no image"
    return InputError(f"{name} cannot be decoded ({reason}): repair it or take it away.")


def _channels(image: "Image.Image") -> int:
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        return 4
    return 1 if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;") else 3


def _eight_bits(image: "Image.Image", name: str) -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise InputError(f"{name} has more than 16 bits a channel: store it with 8 or 16.")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise InputError(f"{name} holds floats, whose range is unknown: store it with 8 bits.")
    mode = _MODES[_channels(image)]
    return image if image.mode == mode else image.convert(mode)
