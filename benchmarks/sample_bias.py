"""How do figures of evaluation depend on the number of samples?

Real images of Fashion-MNIST, and the same with noise, stand for a perfect and for a poor generator:
their true distance does not change with the number of samples, what is measured of N of them does.
Each row has the Fréchet distance to 5,000 other real images as mean and standard deviation over
draws, the kernel distance, and the Fréchet distance extrapolated from N.

    python benchmarks/sample_bias.py --plot docs/images/sample_bias.png
"""

from pathlib import Path

import common
import numpy as np

CASES = {"real": 0.0, "noise 0.1": 0.1, "noise 0.2": 0.2}
SIZES = (100, 200, 500, 1000, 2000, 5000)


def main() -> None:
    args = common.arguments(__doc__, CASES, plot={"type": Path, "help": "write the picture here"})
    results = common.Results("sample_bias", args.out)
    curves = {name: measure(results, name, CASES[name], args.quick) for name in args.cases}
    if args.plot:
        draw(curves, args.plot)


def measure(results: common.Results, name: str, noise: float, quick: bool) -> dict[int, dict]:
    """Return what is measured at each number of samples."""
    from ganjax import data
    from ganjax.evaluation import (
        Moments,
        fashion_mnist_classifier,
        frechet_distance,
        frechet_distance_at_infinity,
        kernel_distance,
    )

    extract = fashion_mnist_classifier()
    images = data.load("fashion_mnist", held_out=0)[0].arrays["image"]
    random = np.random.default_rng(0)
    images = images[random.permutation(len(images))]
    real = extract(images[5000:])["features"]
    moments = Moments.of(real)
    floats = images[:5000] / np.float32(127.5) - 1
    floats = np.clip(floats + noise * random.standard_normal(floats.shape), -1, 1)
    features = extract(floats)["features"]
    measured = {}
    for size in SIZES[:3] if quick else SIZES:
        draws = 1 if size == len(features) else 3 if quick else 20
        chosen = [features[random.choice(5000, size, replace=False)] for _ in range(draws)]
        distances = [frechet_distance(part, moments) for part in chosen]
        # Of the longer set the kernel distance takes the first rows: others for each draw.
        kernels = [kernel_distance(part, random.permutation(real)) for part in chosen]
        entries = {
            "samples": size,
            "frechet_distance": float(np.mean(distances)),
            "frechet_spread": float(np.std(distances)),
            "kernel_distance": float(np.mean(kernels)),
            "kernel_spread": float(np.std(kernels)),
        }
        if size >= 1000:
            at_infinity = [frechet_distance_at_infinity(part, moments)[0] for part in chosen]
            entries["at_infinity"] = float(np.mean(at_infinity))
            entries["at_infinity_spread"] = float(np.std(at_infinity))
        measured[size] = entries
        results.add_row(name, unit="distance", **entries)
    return measured


def draw(curves: dict[str, dict[int, dict]], path: Path) -> None:
    """Plot both distances over the number of samples."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for (name, rows), colour in zip(curves.items(), ("C0", "C1", "C2"), strict=False):
        sizes = list(rows)
        for axes, key, spread in (
            (left, "frechet_distance", "frechet_spread"),
            (right, "kernel_distance", "kernel_spread"),
        ):
            values = [row[key] for row in rows.values()]
            errors = [row[spread] for row in rows.values()]
            axes.errorbar(sizes, values, errors, color=colour, marker="o", ms=3, label=name)
        known = {size: row["at_infinity"] for size, row in rows.items() if "at_infinity" in row}
        left.plot(known.keys(), known.values(), color=colour, ls=":", marker="x", ms=4)
    left.set_title("Fréchet distance (dotted: extrapolated to infinity)")
    right.set_title("kernel distance")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("samples")
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_yscale("log")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
