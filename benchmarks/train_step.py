"""Is a train step of ganjax as fast as the same step in PyTorch at its best?

Same networks, batch, losses and precision, data already on the device, both networks updated by
Adam and a running average kept; in turns in one process. PyTorch: channels_last, fused Adam,
discriminator frozen in the generator's update, `torch.compile` as well where it works (it cannot
differentiate twice), and on a GPU cudnn.benchmark and the whole step as one CUDA graph; each row
compares with the fastest of them. ganjax is measured as a compiled step called from Python and as
several steps inside `lax.scan`, as `ganjax.fit` runs them.

`ceiling_fraction` is the share of this machine's matrix-product rate, measured in the same run,
that the step's floating-point operations (as XLA counts them) reach.

    python benchmarks/train_step.py --out benchmarks/results/train_step.jsonl
"""

import dataclasses
import functools
import statistics
import time

import common
import jax
import jax.numpy as jnp
import numpy as np

import ganjax
from ganjax.networks import dcgan

try:
    import torch_networks
except ImportError:
    torch_networks = None

SECONDS = 1.0  # of one block of steps


@dataclasses.dataclass(frozen=True)
class Case:
    """One training, for both libraries."""

    shape: tuple[int, int, int]
    width: int = 64
    batch_size: int = 64
    loss: str = "non_saturating"
    gradient_penalty: float = 0.0
    r1_interval: int = 0
    discriminator_steps: int = 1
    batch_norm: bool = True
    num_classes: int = 0
    joint_pass: bool = False


CASES = {
    "dcgan28_narrow": Case((28, 28, 1), width=32),
    "dcgan28": Case((28, 28, 1)),
    "quickstart": Case((28, 28, 1), batch_size=32),
    "dcgan64": Case((64, 64, 3)),
    "wgan_gp32": Case(
        (32, 32, 3),
        loss="wasserstein",
        gradient_penalty=10.0,
        discriminator_steps=5,
        batch_norm=False,
    ),
    "conditional28": Case((28, 28, 1), batch_norm=False, num_classes=10, r1_interval=8),
    "joint28": Case((28, 28, 1), batch_norm=False, joint_pass=True),
}


def algorithm_of(case: Case, precision: str = "float32") -> ganjax.Algorithm:
    """Return the ganjax form of a case."""
    dtype = jnp.dtype(precision)
    terms = []
    if case.gradient_penalty:
        function = ganjax.penalties.gradient_penalty
        terms.append(ganjax.Term("gradient_penalty", function, case.gradient_penalty))
    if case.r1_interval:
        terms.append(ganjax.Term("r1", ganjax.penalties.r1, 1.0, case.r1_interval))
    return ganjax.gan(
        dcgan.Generator(case.shape, case.width, num_classes=case.num_classes, dtype=dtype),
        dcgan.Discriminator(
            case.width, batch_norm=case.batch_norm, num_classes=case.num_classes, dtype=dtype
        ),
        latents=ganjax.latents.normal(64),
        loss=ganjax.losses.LOSSES[case.loss],
        generator_optimizer=ganjax.adam(2e-4),
        discriminator_optimizer=ganjax.adam(2e-4),
        discriminator_terms=terms,
        discriminator_steps=case.discriminator_steps,
        share_fakes=case.discriminator_steps == 1,
        joint_pass=case.joint_pass,
        num_classes=case.num_classes,
        ema_half_life_images=5_000,
    )


def batch_of(case: Case) -> dict[str, jax.Array]:
    """Return a batch on the device."""
    generator = np.random.default_rng(0)
    lead = (case.batch_size,)
    if case.discriminator_steps > 1:
        lead = (case.discriminator_steps, *lead)
    batch = {"image": jnp.asarray(generator.integers(0, 256, (*lead, *case.shape), np.uint8))}
    if case.num_classes:
        batch["label"] = jnp.asarray(generator.integers(0, case.num_classes, lead, np.int32))
    return batch


def step_runners(case: Case, precision: str):
    """Return ganjax's two ways of training a block of steps, the FLOPs of one, and the block."""
    algorithm, batch = algorithm_of(case, precision), batch_of(case)
    step = jax.jit(algorithm.train_step, donate_argnums=0)
    states = {name: jax.jit(algorithm.init)(jax.random.key(0)) for name in ("step", "scan")}
    for _ in range(3):
        start = time.perf_counter()
        states["step"], _ = jax.block_until_ready(step(states["step"], batch))
        elapsed = time.perf_counter() - start
    num_steps = max(2, min(1000, round(SECONDS / elapsed)))
    images = num_steps * case.batch_size * case.discriminator_steps
    scan = jax.jit(
        lambda state, batch: jax.lax.scan(
            lambda state, _: algorithm.train_step(state, batch), state, length=num_steps
        ),
        donate_argnums=0,
    )
    cost = step.lower(states["step"], batch).compile().cost_analysis()

    def run_steps():
        state = states["step"]
        for _ in range(num_steps):
            state, metrics = step(state, batch)
        states["step"] = jax.block_until_ready(state)
        del metrics
        return images

    def run_scan():
        states["scan"], _ = jax.block_until_ready(scan(states["scan"], batch))
        return images

    return {"step": run_steps, "scan": run_scan}, (cost or {}).get("flops"), num_steps


def torch_runners(case: Case, precision: str, num_steps: int):
    """Return PyTorch's ways of training `num_steps` steps, those that work here."""
    import torch

    images = num_steps * case.batch_size * case.discriminator_steps
    settings = dataclasses.asdict(case)
    variants = {"eager": {}, "compiled": {"compiled": True}}
    # A CUDA graph is one program for every step: nothing in it may depend on the step.
    if torch.cuda.is_available() and not case.r1_interval:
        variants["graph"] = {"graph": True}
    runners = {}
    for name, options in variants.items():
        try:
            trainer = torch_networks.Trainer(precision=precision, **settings, **options)
            trainer.step()
            trainer.synchronize()
        except Exception as error:  # whatever a compiler without its tools may raise
            print(f"PyTorch, {name}: does not run here ({type(error).__name__})")
            continue

        def run(trainer):
            for _ in range(num_steps):
                trainer.step()
            trainer.synchronize()
            return images

        runners[name] = functools.partial(run, trainer)
    return runners


def matrix_product_runner(precision: str):
    """Return a large matrix product that reports its floating-point operations."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), precision)
    product = jax.jit(lambda a: a @ a)

    def run():
        jax.block_until_ready(product(a))
        return 2 * size**3

    return run


def main() -> None:
    precisions = {"default": "float32", "choices": ("float32", "bfloat16")}
    args = common.arguments(__doc__, list(CASES), precision=precisions)
    results = common.Results("train_step", args.out)
    for name in args.cases:
        case = CASES[name]
        per_step = case.batch_size * case.discriminator_steps
        ours, flops, num_steps = step_runners(case, args.precision)
        theirs = {}
        if torch_networks is not None:
            theirs = torch_runners(case, args.precision, num_steps)
        runners = {f"ganjax {k}": f for k, f in ours.items()}
        runners |= {f"PyTorch {k}": f for k, f in theirs.items()}
        runners["ceiling"] = matrix_product_runner(args.precision)
        rates = common.in_turns(runners, quick=args.quick)
        peers = {k: v for k, v in rates.items() if k.startswith("PyTorch")}
        medians = {k: statistics.median(v) for k, v in rates.items()}
        best = max(peers, key=medians.get) if peers else None
        for way in ours:
            own = rates[f"ganjax {way}"]
            more = {"precision": args.precision, "batch_size": case.batch_size}
            # XLA counts the body of the loop over discriminator steps once.
            if flops and case.discriminator_steps == 1:
                reached = medians[f"ganjax {way}"] / per_step * flops
                more["gflops_per_step"] = flops / 1e9
                more["ceiling_fraction"] = reached / medians["ceiling"]
            if best is None:
                results.add_row(
                    f"{name}/{way}", ganjax=statistics.median(own), unit="images/s", **more
                )
                continue
            results.add(f"{name}/{way}", own, rates[best], peer=best, **more)
        for peer, values in peers.items():
            print(f"    {peer}: {statistics.median(values):,.0f} images/s")


if __name__ == "__main__":
    main()
