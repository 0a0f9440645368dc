"""The command `data`: data sets made ready."""

import dataclasses
import inspect
import sys

from ganjax.arguments import PROGRAM, read
from ganjax.types import InputError


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Prepare a tensorflow-datasets set, so that `--data.source tfds:NAME` reads it.

    mnist, fashion_mnist, kmnist, cifar10 and cifar100 need no TensorFlow; any other set needs it
    for this one command. Files come from the network, or from a folder where they already are.
    """

    data_dir: str | None = None
    """Where to put it; by default where tensorflow-datasets puts its data."""
    downloads: str | None = None
    """A folder with the downloaded files under their original names, for use without a network."""


def data(arguments: list[str]) -> int:
    """Prepare a data set: `ganjax data prepare NAME`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} data prepare NAME [--data-dir DIR] [--downloads DIR]\n")
        print(inspect.getdoc(PrepareOptions))
        return 0 if arguments else 2
    if arguments[0] != "prepare":
        raise InputError(f"`{PROGRAM} data` knows prepare, not {arguments[0]!r}")
    name, options = read(arguments[1:], PrepareOptions, "data prepare", "NAME")
    from ganjax import data as sources

    path = sources.prepare(
        name,
        data_dir=options.data_dir,
        downloads=options.downloads,
        progress=lambda line: print(line, file=sys.stderr),
    )
    print(f"prepared {name} in {path}; train on it with --data.source tfds:{name}")
    return 0
