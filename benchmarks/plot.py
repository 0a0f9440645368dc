"""Draw throughput against batch size from rows of `scaling.py --cases batch`: see `--help`."""

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="files of JSON lines, one a device")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    args = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for path in args.results:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row for row in rows if row["case"].startswith("batch/")]
        sizes = [int(row["case"].split("/")[1]) for row in rows]
        axes.plot(sizes, [row["ganjax"] for row in rows], marker="o", label=rows[0]["device"])
    axes.set(
        xscale="log", xlabel="batch size", ylabel="images/s", title="Train steps of a DCGAN, 28x28"
    )
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.picture, dpi=120)


if __name__ == "__main__":
    main()
