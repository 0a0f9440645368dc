"""How much memory does a train step take, and what do the options for less buy?

Peak bytes of the compiled step of each shipped configuration (state, batch, results and everything
in between), and with `train.rematerialize`, with `train.micro_batches=4` and with both. The ratio
is the plain step's peak over that of the option; `flops_ratio` is its price. Nothing is run, so
that the figures are the same each time.

They are those of the program for this machine. On a CPU the library's convolutions have a form of
their own, what the kernels allocate is not counted, and the compiler would rather have much to do
at a time than save memory: `--schedule memory` (the default here) asks for the order of work that
needs least, with which XLA's GPU compiler begins; `--schedule default` is the one that a training
on this CPU has.

    python benchmarks/memory.py --cases folder,wgan_gp --out results/memory.jsonl
"""

import dataclasses
import os

import common

from ganjax import config, cost
from ganjax.build import build_model
from ganjax.config import Config

# Of one example, by `data.source`; the sources that are not built in have the sizes they are for.
SHAPES = {
    "fashion_mnist": (28, 28, 1),
    "ring": (2,),
    "grid": (2,),
    "images": (64, 64, 3),
    "tfds:cifar10": (32, 32, 3),
}
OPTIONS = {
    "plain": {},
    "rematerialize": {"rematerialize": True},
    "micro_batches=4": {"micro_batches": 4},
    "both": {"rematerialize": True, "micro_batches": 4},
}
FLAGS = {"memory": "--xla_cpu_enable_concurrency_optimized_scheduler=false", "default": ""}


def main() -> None:
    cases = [name for name in config.shipped() if config.load_file(name).data.source in SHAPES]
    schedule = {"choices": list(FLAGS), "default": "memory", "help": "the CPU's order of work"}
    args = common.arguments(__doc__, cases, schedule=schedule)
    # XLA reads them once, when the first program is compiled. How well code is generated is of no
    # account here, and the lowest level compiles in half the time.
    flags = f"{FLAGS[args.schedule]} --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    results = common.Results("memory", args.out)
    for case in args.cases:
        settings = config.load_file(case)
        plain = None
        for option, train in OPTIONS.items():
            measured = measure(settings, train)
            plain = plain or measured
            results.add_row(
                f"{case}/{option}",
                ganjax=measured.memory.peak / 1e6,
                peer=plain.memory.peak / 1e6,
                peer_name="the plain step",
                unit="MB",
                ratio=plain.memory.peak / measured.memory.peak,
                temporaries=measured.memory.temporaries / 1e6,
                flops_ratio=measured.flops / plain.flops,
                batch_size=settings.train.batch_size,
                schedule=args.schedule,
            )


def measure(settings: Config, train: dict) -> cost.Cost:
    """Compile the step of a configuration with other options."""
    model = settings.model
    if "micro_batches" in train and getattr(model, "share_fakes", False):
        model = dataclasses.replace(model, share_fakes=False)  # they exclude each other
    settings = dataclasses.replace(
        settings, model=model, train=dataclasses.replace(settings.train, **train)
    )
    num_classes = 10 if model.conditional else 0
    built = build_model(settings, SHAPES[settings.data.source], num_classes)
    return cost.step_cost(built.algorithm, built.shape, settings.train.batch_size, num_classes)


if __name__ == "__main__":
    main()
