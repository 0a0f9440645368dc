"""How fast is generation from a trained generator?

images/s of `algorithm.sample`, compiled for one number of images (and for 256 of them also in eight
calls of 32, the way of `Trained.sample`), against PyTorch's same DCGAN generator in
`inference_mode` on the same device: eager in the channels-last format, and compiled by
`torch.compile` where that works. All draw their latents anew. Where PyTorch is not installed there
is no peer.

    python benchmarks/sampling.py --cases 28_16,28_256
"""

import functools
import importlib.util
import itertools
import statistics
import sys
from collections.abc import Callable

import common
import jax

from ganjax import gan, latents
from ganjax.networks import dcgan

WIDTH, LATENTS = 64, 64
CALL = 32  # what `Trained.sample` takes
SHAPES = {"28": (28, 28, 1), "64": (64, 64, 3)}
CASES = {f"{size}_{batch}": (SHAPES[size], batch) for size in SHAPES for batch in (1, 16, 256)}


def main() -> None:
    args = common.arguments(__doc__, CASES)
    results = common.Results("sampling", args.out)
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        print("no torch here: ganjax on its own", file=sys.stderr)
    for name in args.cases:
        shape, batch_size = CASES[name]
        ways = {name: ganjax_turn(shape, batch_size)}
        if batch_size > CALL:
            ways[f"{name}_by_{CALL}"] = ganjax_turn(shape, CALL, batch_size // CALL)
        peers = torch_turns(shape, batch_size) if has_torch else {}
        rates = common.in_turns({**ways, **peers}, quick=args.quick)
        for way in ways:
            for peer in peers:
                results.add(way, rates[way], rates[peer], peer=peer)
            if not peers:
                results.add_row(way, ganjax=statistics.median(rates[way]), unit="images/s")


def ganjax_turn(
    shape: tuple[int, int, int], batch_size: int, num_calls: int = 1
) -> Callable[[], float]:
    algorithm = gan(
        dcgan.Generator(shape, WIDTH), dcgan.Discriminator(WIDTH), latents=latents.normal(LATENTS)
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))
    # As `ganjax.load` gives it.
    players = {name: player.replace(opt_state=()) for name, player in state.players.items()}
    state = state.replace(players=players)
    sample = jax.jit(algorithm.sample, static_argnums=2)
    keys = itertools.cycle(list(jax.random.split(jax.random.key(1), 100)))

    def turn():
        images = [sample(state, next(keys), batch_size) for _ in range(num_calls)]
        jax.block_until_ready(images)
        return num_calls * batch_size

    return turn


def torch_turns(shape: tuple[int, int, int], batch_size: int) -> dict[str, Callable[[], float]]:
    """Return turns of PyTorch's generator, by what they are called."""
    import torch
    import torch_networks

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    generator = torch_networks.Generator(shape, WIDTH, LATENTS, 0).to(device).eval()
    generator = generator.to(memory_format=torch.channels_last)

    def turn(network):
        with torch.inference_mode():
            network(torch.randn(batch_size, LATENTS, device=device))
        if device == "cuda":
            torch.cuda.synchronize()
        return batch_size

    turns = {"PyTorch": functools.partial(turn, generator)}
    compiled = torch.compile(generator)
    try:
        turn(compiled)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        print(f"torch.compile does not work here: {reason}", file=sys.stderr)
    else:
        turns["PyTorch, torch.compile"] = functools.partial(turn, compiled)
    return turns


if __name__ == "__main__":
    main()
