"""Which way the doors open: section 3 of the design, read from the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ganjax

ROOT = Path(ganjax.__file__).parent
# A room imports from its own floor and those below it.
FLOORS = [
    {"types", "files", "views", "axes", "lowerings", "ops"},
    {"losses", "penalties", "augment", "latents", "ema"},
    {"networks"},
    {
        "players",
        "updates",
        "generation",
        "beams",
        "gan",
        "vae",
        "autoregressive",
        "text_gan",
        "seqgan",
        "safeguard",
    },
    {
        "sharding",
        "processes",
        "cost",
        "hlo",
        "checkpoint",
        "checkpoint_files",
        "digest",
        "quiet",
        "events",
        "data",
        "evaluation",
        "interop",
        "pictures",
        "projection",
    },
    {"population", "feed", "progress", "loop", "run"},
    {"build", "build_text", "checks", "config", "plain", "optimizers", "experiment"},
    {
        "train",
        "record",
        "trained",
        "trained_text",
        "judging",
        "judging_text",
        "pending_scores",
        "measure",
    },
    {
        "report",
        "scores",
        "prepare",
        "arguments",
        "samples",
        "explore",
        "portable",
        "convert",
        "sweep",
        "cli",
        "__main__",
    },
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ALGORITHMS = {"gan", "vae", "autoregressive"}
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix()
    for path in ROOT.rglob("*.py")
    if path != ROOT / "__init__.py"
)


def imported(source: str, module: str) -> set[str]:
    """Return the dotted names that a module imports, wherever in it, relative ones resolved."""
    package = ["ganjax", *module.split("/")[:-1]]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def complaints(source: str, module: str) -> list[str]:
    """Return what a module imports against the design."""
    room = module.split("/")[0]
    if room not in FLOOR_OF:
        return [f"{room} is no room of the house: give it a floor here"]
    found = []
    for name in sorted(imported(source, module)):
        parts = name.split(".")
        if parts[0] == "ganjax":
            other = parts[1] if len(parts) > 1 else "the package itself"
            if FLOOR_OF.get(other, len(FLOORS)) > FLOOR_OF[room]:
                found.append(f"{module} imports {other}, which is above it")
        linen_rooms = ALGORITHMS | {"networks"}
        is_linen = parts[:2] == ["flax", "linen"]
        if is_linen and room not in linen_rooms and module != "evaluation/classifier":
            found.append(f"{module} imports flax.linen, which belongs to networks and algorithms")
        if parts[0] == "optax" and FLOOR_OF[room] < FLOOR_OF["gan"]:
            found.append(f"{module} imports optax, which is for the algorithms and what uses them")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert complaints((ROOT / f"{module}.py").read_text(), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses", "from ganjax.gan import gan"),
        ("networks/new", "from ganjax import gan"),
        ("networks/new", "from ..players import Player"),
        ("networks/new", "from .. import sharding"),
        ("gan", "def f():\n    from ganjax import config"),
        ("loop", "import ganjax.cli"),
        ("data/new", "import ganjax"),
        ("data/new", "from ganjax import Term"),
        ("loop", "from flax import linen as nn"),
        ("evaluation/metrics", "import flax.linen as nn"),
        ("networks/new", "import optax"),
        ("attic", "import jax"),
    ],
)
def test_a_door_that_opens_the_wrong_way_is_seen(module, source):
    assert len(complaints(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("networks/new", "from flax import linen as nn\nfrom . import layers\nfrom .. import ops"),
        ("gan", "import optax\nfrom ganjax.networks.layers import as_network"),
        ("cli", "from ganjax import build, report"),
        ("types", "from flax import struct"),
    ],
)
def test_a_door_that_opens_the_right_way_is_let_be(module, source):
    assert complaints(source, module) == []


def test_importing_the_package_loads_what_it_is_made_of_and_nothing_else():
    program = """if True:
        import sys
        import jax, flax.linen, optax, orbax.checkpoint, numpy
        before = {name.split(".")[0] for name in sys.modules}
        import warnings
        warnings.simplefilter("error")
        import ganjax
        after = {name.split(".")[0] for name in sys.modules}
        # multiprocessing calls the main module so.
        print(*sorted(after - before - {"__mp_main__"} - set(sys.stdlib_module_names)))
    """
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout == "ganjax\n"


def test_public_names_are_there():
    assert sorted(set(ganjax.__all__)) == sorted(ganjax.__all__)
    for name in ganjax.__all__:
        assert hasattr(ganjax, name), name
