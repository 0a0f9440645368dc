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
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import ganjax
from ganjax.networks.biggan import BigGAN
from ganjax.networks.dcgan import DCGAN
from ganjax.networks.r3gan import R3GAN
from ganjax.networks.sngan import SNGAN
from ganjax.networks.stylegan2 import StyleGAN2
from ganjax.networks.wgan_gp import WGANGP

try:
    import torch
except ImportError:
    torch = None

SECONDS = 1.0  # of one block of steps


@dataclasses.dataclass(frozen=True)
class Case:
    """One training, for both libraries.

    Attributes:
      network: settings of both networks.
      peer: name of the function in PEERS that makes them in PyTorch.
      r1_interval: 0 for no R1, 1 for R1 in each step's loss, more for a lazy one.
      r2: whether R1 comes with R2.
      path_interval: of the path length; 0 for none.
    """

    shape: tuple[int, int, int]
    network: Any
    peer: str = "dcgan"
    batch_size: int = 64
    loss: str = "non_saturating"
    gradient_penalty: float = 0.0
    r1_interval: int = 0
    r2: bool = False
    path_interval: int = 0
    discriminator_steps: int = 1
    num_classes: int = 0
    joint_pass: bool = False


def narrow(width=64, **options):
    """Return DCGAN's settings with one width for both networks."""
    return DCGAN(latent_dim=64, generator_width=width, discriminator_width=width, **options)


CRITIC = {"loss": "wasserstein", "gradient_penalty": 10.0, "discriminator_steps": 5}
WIDTH = {"generator_width": 64, "discriminator_width": 64}
PLAIN = narrow(discriminator_batch_norm=False)
CASES = {
    "dcgan28_narrow": Case((28, 28, 1), narrow(32)),
    "dcgan28": Case((28, 28, 1), narrow()),
    "quickstart": Case((28, 28, 1), narrow(), batch_size=32),
    "dcgan64": Case((64, 64, 3), narrow()),
    "wgan_gp32": Case((32, 32, 3), PLAIN, **CRITIC),
    "conditional28": Case((28, 28, 1), PLAIN, num_classes=10, r1_interval=8),
    "joint28": Case((28, 28, 1), PLAIN, joint_pass=True),
    # The families at 32x32; on two cores a smaller batch and one discriminator update.
    "wgan_gp_resnet32": Case(
        (32, 32, 3), WGANGP(latent_dim=64), "wgan_gp", 16, "wasserstein", gradient_penalty=10.0
    ),
    "sngan32": Case(
        (32, 32, 3), SNGAN(latent_dim=64, **WIDTH), "sngan", 16, "hinge", num_classes=10
    ),
    "biggan32": Case(
        (32, 32, 3),
        BigGAN(latent_dim=64, shared=False, hierarchical=False, attention="0", **WIDTH),
        "biggan",
        16,
        "hinge",
        num_classes=10,
    ),
    "stylegan2_32": Case(
        (32, 32, 3),
        StyleGAN2(channel_base=8192, channel_max=256, mixing_probability=0.0),
        "stylegan2",
        16,
        r1_interval=16,
        path_interval=4,
    ),
    "r3gan32": Case(
        (32, 32, 3), R3GAN(width=96, blocks=1), "r3gan", 8, "relativistic", r1_interval=1, r2=True
    ),
}
# What needs a GPU to be done in a minute.
LARGE = {
    "stylegan2_256": Case(
        (256, 256, 3),
        StyleGAN2(channel_base=16384, mixing_probability=0.0),
        "stylegan2",
        16,
        r1_interval=16,
        path_interval=4,
    ),
    "r3gan32_full": Case((32, 32, 3), R3GAN(), "r3gan", 64, "relativistic", r1_interval=1, r2=True),
    "biggan32_full": Case(
        (32, 32, 3),
        BigGAN(latent_dim=64, shared=False, hierarchical=False, attention="0", **WIDTH),
        "biggan",
        64,
        "hinge",
        discriminator_steps=5,
        num_classes=10,
    ),
}


def _dcgan_peer(case):
    import torch_networks

    network = case.network
    common = {"width": network.generator_width, "num_classes": case.num_classes}
    return (
        torch_networks.Generator(case.shape, latent_dim=network.latent_dim, **common),
        torch_networks.Discriminator(
            case.shape, batch_norm=network.discriminator_batch_norm, **common
        ),
    )


def _resnet_peer(case):
    import torch_resnets

    return torch_resnets.NETWORKS[case.peer](
        case.shape,
        width=case.network.generator_width,
        num_classes=case.num_classes,
        latent_dim=case.network.latent_dim,
    )


def _stylegan2_peer(case):
    import torch_stylegan2

    network = case.network
    names = ("z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max")
    return torch_stylegan2.networks(case.shape, **{n: getattr(network, n) for n in names})


def _r3gan_peer(case):
    import torch_r3gan

    network = case.network
    return torch_r3gan.networks(
        case.shape, width=network.width, blocks=network.blocks, latent_dim=network.latent_dim
    )


PEERS = {
    "dcgan": _dcgan_peer,
    **dict.fromkeys(("wgan_gp", "sngan", "biggan"), _resnet_peer),
    "stylegan2": _stylegan2_peer,
    "r3gan": _r3gan_peer,
}


def algorithm_of(case: Case, precision: str = "float32") -> ganjax.Algorithm:
    """Return the ganjax form of a case."""
    networks = case.network.build(case.shape, case.num_classes, jnp.dtype(precision))
    terms, generator_terms, share = [], [], case.discriminator_steps == 1
    if case.gradient_penalty:
        function = ganjax.penalties.gradient_penalty
        terms.append(ganjax.Term("gradient_penalty", function, case.gradient_penalty))
    if case.r1_interval:
        terms.append(ganjax.Term("r1", ganjax.penalties.r1, 1.0, case.r1_interval))
    if case.r2:
        terms.append(ganjax.Term("r2", ganjax.penalties.r2, 1.0, case.r1_interval))
    if case.path_interval:
        function = ganjax.penalties.path_length()
        generator_terms.append(ganjax.Term("path_length", function, 2.0, case.path_interval))
    return ganjax.gan(
        networks["generator"],
        networks["discriminator"],
        latents=networks["latents"],
        loss=ganjax.losses.LOSSES[case.loss],
        generator_optimizer=ganjax.adam(2e-4),
        discriminator_optimizer=ganjax.adam(2e-4),
        generator_terms=generator_terms,
        discriminator_terms=terms,
        discriminator_steps=case.discriminator_steps,
        share_fakes=share and case.loss == "non_saturating" and not generator_terms,
        joint_pass=case.joint_pass,
        num_classes=case.num_classes,
        ema_half_life_images=5_000,
    )


def batch_of(case: Case) -> dict[str, jax.Array]:
    """Return a batch on the device."""
    generator = np.random.default_rng(0)
    # A relativistic generator compares with real images of its own.
    batches = case.discriminator_steps + (case.loss == "relativistic")
    lead = (case.batch_size,) if batches == 1 else (batches, case.batch_size)
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
    import torch_trainer

    images = num_steps * case.batch_size * case.discriminator_steps
    settings = {f.name: getattr(case, f.name) for f in dataclasses.fields(case)}
    del settings["network"], settings["peer"]
    latent_dim = case.network.build(case.shape, case.num_classes, jnp.float32)["latents"].dimension
    variants = {"eager": {}, "compiled": {"compiled": True}}
    # A CUDA graph is one program for every step: nothing in it may depend on the step.
    if torch.cuda.is_available() and case.r1_interval < 2 and not case.path_interval:
        variants["graph"] = {"graph": True}
    runners = {}
    for name, options in variants.items():
        try:
            trainer = torch_trainer.Trainer(
                *PEERS[case.peer](case),
                latent_dim=latent_dim,
                precision=precision,
                **settings,
                **options,
            )
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
    cases = {**CASES, **LARGE}
    args = common.arguments(__doc__, list(cases), default=list(CASES), precision=precisions)
    results = common.Results("train_step", args.out)
    for name in args.cases:
        case = cases[name]
        per_step = case.batch_size * case.discriminator_steps
        ours, flops, num_steps = step_runners(case, args.precision)
        theirs = {}
        if torch is not None:
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
