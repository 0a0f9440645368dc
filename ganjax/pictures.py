"""Pictures of samples and of a run: grids, animations, curves, points in the plane.

Arrays come in as NumPy or JAX arrays, images as uint8 or float in [-1, 1]. Pillow and matplotlib
are imported where they are used.
"""

import contextlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ganjax.types import Array, InputError

# Okabe and Ito's colours, told apart with any kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Prefixes whose metrics have different units.
_UNLIKE = ("evaluation",)


def as_uint8_images(images: Array | np.ndarray) -> np.ndarray:
    """Return images as uint8: floats in [-1, 1] are mapped to [0, 255], clipped and rounded.

    Values that are not numbers become black.

    >>> as_uint8_images(np.array([-1.0, 0.0, 1.0, 2.0, np.nan])).tolist()
    [0, 128, 255, 255, 0]
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind in "iub":
        raise InputError(
            f"images must be uint8 or float in [-1, 1], these are {images.dtype}: convert them "
            "with .astype(numpy.uint8) if they lie in 0 to 255."
        )
    images = np.nan_to_num(images.astype(np.float32), nan=-1.0)
    return np.clip(np.rint(images * 127.5 + 127.5), 0, 255).astype(np.uint8)


def grid(
    images: Array | np.ndarray,
    *,
    columns: int | None = None,
    padding: int = 2,
    upscale: int = 1,
) -> np.ndarray:
    """Lay images out row by row, on white (transparent where they have an alpha channel).

    Args:
      images: (N, H, W, C), uint8 or float in [-1, 1]; C is 1 (grey), 3 (RGB) or 4 (RGBA).
      columns: images per row; None makes the grid about square.
      padding: pixels between images and around all of them, not scaled.
      upscale: how many pixels, each way, show one pixel of an image.

    Returns:
      (height, width, C) uint8.

    Raises:
      InputError: the images have another shape or type.

    >>> grid(np.zeros((5, 28, 28, 1)), columns=3).shape
    (62, 92, 1)
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        raise InputError(
            f"a grid takes images of shape (N, H, W, C) with 1, 3 or 4 channels, these have "
            f"{images.shape}."
        )
    if columns is None:
        columns = math.ceil(math.sqrt(len(images)))
    if columns < 1 or upscale < 1 or padding < 0:
        raise InputError(
            f"columns and upscale must be at least 1 and padding at least 0, they are {columns}, "
            f"{upscale} and {padding}."
        )
    images = as_uint8_images(images).repeat(upscale, axis=1).repeat(upscale, axis=2)
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (rows * (height + padding) + padding, columns * (width + padding) + padding)
    picture = np.full((*size, channels), 255, np.uint8)
    if channels == 4:
        picture[..., 3] = 0
    for index, image in enumerate(images):
        top = padding + index // columns * (height + padding)
        left = padding + index % columns * (width + padding)
        picture[top : top + height, left : left + width] = image
    return picture


def reconstructions(
    real_images: Array | np.ndarray,
    reconstructed_images: Array | np.ndarray,
    *,
    columns: int = 8,
    padding: int = 2,
    upscale: int = 1,
) -> np.ndarray:
    """Return a grid in which every row of real images has its reconstructions right below.

    Args:
      real_images: (N, H, W, C), uint8 or float in [-1, 1].
      reconstructed_images: of the same shape.
      columns: pairs per pair of rows.
      padding: as in `grid`.
      upscale: as in `grid`.

    Returns:
      (height, width, C) uint8.

    >>> reconstructions(np.zeros((10, 8, 8, 3)), np.ones((10, 8, 8, 3)), padding=0).shape
    (32, 64, 3)
    """
    real, reconstructed = as_uint8_images(real_images), as_uint8_images(reconstructed_images)
    if real.shape != reconstructed.shape or real.ndim != 4:
        raise InputError(
            f"every real image needs its reconstruction of the same shape (N, H, W, C), these are "
            f"{real.shape} and {reconstructed.shape}."
        )
    columns = max(1, min(columns, len(real)))
    # Fill the last rows with white images, so that each row starts a new pair.
    missing = -len(real) % columns
    pairs = [
        np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255).reshape(
            -1, columns, *images.shape[1:]
        )
        for images in (real, reconstructed)
    ]
    rows = np.stack(pairs, axis=1).reshape(-1, *real.shape[1:])
    return grid(rows, columns=columns, padding=padding, upscale=upscale)


def neighbors(
    samples: Array | np.ndarray, nearest: Array | np.ndarray, *, padding: int = 2
) -> np.ndarray:
    """Return a grid with a row for each sample: the sample, a gap, the real images nearest to it.

    Args:
      samples: (N, H, W, C), uint8 or float in [-1, 1].
      nearest: (N, K, H, W, C), the nearest first.
      padding: white pixels between images.

    Returns:
      (height, width, C) uint8.

    >>> neighbors(np.zeros((2, 64, 64, 3)), np.ones((2, 3, 64, 64, 3)), padding=1).shape[0]
    131
    """
    samples, nearest = as_uint8_images(samples), np.asarray(nearest)
    if nearest.ndim != 5 or nearest.shape[:1] + nearest.shape[2:] != samples.shape:
        raise InputError(
            "every sample (N, H, W, C) needs its neighbours (N, K, H, W, C), these are "
            f"{samples.shape} and {nearest.shape}."
        )
    columns = nearest.shape[1]
    upscale = max(1, 64 // samples.shape[1])
    real = as_uint8_images(nearest.reshape(-1, *samples.shape[1:]))
    parts = [
        grid(images, columns=width, padding=padding, upscale=upscale)
        for images, width in ((samples, 1), (real, columns))
    ]
    gap = np.full((parts[0].shape[0], 4 * padding, samples.shape[-1]), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1]], axis=1)


def save_png(path: str | os.PathLike, array: Array | np.ndarray) -> None:
    """Write one image as PNG; a local file appears whole or not at all.

    Args:
      path: a local or a bucket's path (`gs://...`); missing folders are made.
      array: (H, W) or (H, W, C), uint8 or float in [-1, 1].
    """
    _write(path, _encode([_pillow_image(array)], "PNG"))


def save_images(
    directory: str | os.PathLike, images: Array | np.ndarray, *, start: int = 0
) -> list[str]:
    """Write each image as a PNG of its own: `000000.png`, `000001.png`, ...

    Args:
      directory: where to; made if missing.
      images: (N, H, W, C), uint8 or float in [-1, 1].
      start: number of the first file, to go on where an earlier batch ended.

    Returns:
      The paths in order.
    """
    paths = []
    for number, image in enumerate(as_uint8_images(images), start):
        paths.append(os.path.join(os.fspath(directory), f"{number:06d}.png"))
        save_png(paths[-1], image)
    return paths


def save_animation(
    path: str | os.PathLike,
    frames: Array | np.ndarray | Sequence[np.ndarray],
    *,
    frames_per_second: float = 20,
) -> None:
    """Write an endless animation as .gif or .webp.

    A GIF has 256 colours and steps of 10 ms in time; WebP keeps all colours in fewer bytes.

    Args:
      path: ending in .gif or .webp.
      frames: (T, H, W, C), uint8 or float in [-1, 1].
      frames_per_second: between 1 and 50, beyond which browsers slow a GIF down.

    Raises:
      InputError: another ending, no frame, or frames of different sizes.
    """
    formats = {".gif": {"format": "GIF", "disposal": 2}, ".webp": {"format": "WEBP", "quality": 90}}
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in formats:
        raise InputError(f"an animation is a .gif or a .webp, not {os.fspath(path)}.")
    if not 1 <= frames_per_second <= 50:
        raise InputError(f"frames_per_second is between 1 and 50, not {frames_per_second}.")
    pictures = [_pillow_image(frame) for frame in frames]
    if len({picture.size for picture in pictures}) != 1:
        raise InputError(
            f"an animation needs frames of one size, these {len(pictures)} frames have "
            f"{sorted({picture.size for picture in pictures})}."
        )
    duration = round(1000 / frames_per_second)
    _write(path, _encode(pictures, **formats[ending], loop=0, duration=duration))


def plot_curves(
    path: str | os.PathLike, metrics: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> None:
    """Draw metrics over steps as PNG, one panel for each prefix before the slash.

    Metrics under `evaluation/` have no common scale and get a panel each.
    Long curves are drawn as the band they stay in and the mean of a fiftieth of them. Values that
    are not finite leave a gap and are counted in the panel's title.

    Args:
      path: the .png to write.
      metrics: name -> (steps, values), such as `{"loss/generator": ([0, 100], [0.7, 0.9])}`.

    Raises:
      InputError: there is no metric, or steps and values differ in number.
    """
    groups: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name, curve in metrics.items():
        steps, values = (np.asarray(x, np.float64) for x in curve)
        if steps.shape != values.shape or steps.ndim != 1:
            raise InputError(
                f"the curve {name} has {steps.shape} steps and {values.shape} values: pass one "
                "value a step."
            )
        group, _, label = name.partition("/")
        if group in _UNLIKE:
            group, label = label, ""
        groups.setdefault(group, {})[label or group] = steps, values
    if not groups:
        raise InputError("there are no metrics to plot.")
    columns = min(len(groups), 3)
    rows = math.ceil(len(groups) / columns)
    figure = _figure(4.6 * columns, 3.0 * rows)
    for index, (group, curves) in enumerate(groups.items(), 1):
        _panel(figure.add_subplot(rows, columns, index), group, curves)
    _save_figure(path, figure)


def _panel(axes: Any, group: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw the curves of one group."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    broken = 0
    for index, (label, (steps, values)) in enumerate(curves.items()):
        finite = np.isfinite(values)
        broken += int((~finite).sum())
        style = {"color": _COLOURS[index % len(_COLOURS)], "linewidth": 1.4}
        style["linestyle"] = ("-", "--", ":")[index // len(_COLOURS) % 3]
        if len(values) < 400:
            marker = "o" if len(values) <= 30 else ""
            values = np.where(finite, values, np.nan)
            axes.plot(steps, values, **style, marker=marker, markersize=3, label=_words(label))
            continue
        # A band from the least to the greatest value of 1,000 blocks, the mean of 50.
        extremes = _blocks(1000, steps, np.where(finite, values, np.nan))
        low, high = (limit.reduce(extremes[1], axis=1) for limit in (np.fmin, np.fmax))
        axes.fill_between(extremes[0].mean(axis=1), low, high, color=style["color"], alpha=0.25)
        steps, values = (x.mean(axis=1) for x in _blocks(50, steps[finite], values[finite]))
        axes.plot(steps, values, **style, label=_words(label))
    title = _words(group)
    if broken:
        title += f" ({broken} values not finite)"
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if axes.dataLim.width == 0:  # a single step
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if list(curves) != [group]:
        # Not "best": searching for it takes seconds with long curves.
        axes.legend(loc="upper right", framealpha=0.7, fontsize=9, ncols=1 + len(curves) // 5)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("frechet", "Fréchet")


def _blocks(count: int, *arrays: np.ndarray) -> list[np.ndarray]:
    """Return each array as at most `count` rows of consecutive values, less an odd end."""
    width = max(2, -(-len(arrays[0]) // count))
    return [x[: len(x) // width * width].reshape(-1, width) for x in arrays]


def scatter(
    path: str | os.PathLike,
    generated: Array | np.ndarray,
    real: Array | np.ndarray | None = None,
    *,
    title: str | None = None,
) -> None:
    """Draw generated points in the plane over real ones, as PNG.

    The frame is that of the real points with a margin, so that successive pictures of a run show
    the same window; the title counts generated points that lie outside.

    Args:
      path: the .png to write.
      generated: (N, 2).
      real: (M, 2), or None.
      title: a line above the picture.

    Raises:
      InputError: the points are not in the plane.
    """
    sets = {"real": real, "generated": generated}
    sets = {name: np.asarray(points) for name, points in sets.items() if points is not None}
    for name, points in sets.items():
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise InputError(
                f"{name} points in the plane have the shape (N, 2), these have {points.shape}."
            )
    finite = {name: points[np.isfinite(points).all(axis=1)] for name, points in sets.items()}
    frame = finite.get("real", finite["generated"])
    if not len(frame):
        frame = np.zeros((1, 2))
    low, high = frame.min(axis=0), frame.max(axis=0)
    center, reach = (low + high) / 2, 0.6 * max(float((high - low).max()), 1e-6)
    inside = (np.abs(finite["generated"] - center) <= reach).all(axis=1).sum()
    outside = len(sets["generated"]) - int(inside)

    figure = _figure(5.0, 5.2)
    axes = figure.add_subplot()
    for name, colour in (("real", "#AAAAAA"), ("generated", _COLOURS[0])):
        if name in finite:
            size = 6.0 if len(finite[name]) <= 5000 else 2.0
            x, y = finite[name].T
            axes.scatter(x, y, s=size, color=colour, alpha=0.5, linewidths=0, label=name)
    axes.set_xlim(center[0] - reach, center[0] + reach)
    axes.set_ylim(center[1] - reach, center[1] + reach)
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    lines = [title] if title else []
    if outside:
        lines.append(f"{outside:,} of {len(sets['generated']):,} generated points lie outside")
    axes.set_title("\n".join(lines), loc="left", fontsize=11)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, frameon=False, markerscale=2
    )
    _save_figure(path, figure)


def _figure(width: float, height: float) -> Any:
    """Return a matplotlib figure that is registered nowhere: no pyplot, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save_figure(path: str | os.PathLike, figure: Any) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    _write(path, buffer.getvalue())


def _pillow_image(array: Array | np.ndarray) -> Any:
    from PIL import Image

    array = as_uint8_images(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise InputError(
            f"an image is (H, W) or (H, W, C) with 1, 3 or 4 channels, this has the shape "
            f"{array.shape}."
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _encode(pictures: Sequence[Any], format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    first, *rest = pictures
    if rest:
        options |= {"save_all": True, "append_images": rest}
    first.save(buffer, format=format, **options)
    return buffer.getvalue()


def _write(path: str | os.PathLike, content: bytes) -> None:
    """Write a file, making its folder; local ones by renaming, buckets are atomic as they are."""
    from etils import epath

    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "://" in os.fspath(path):
        path.write_bytes(content)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
