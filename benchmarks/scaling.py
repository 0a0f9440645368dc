"""How does a train step scale over devices?

What can be measured here, and a prediction for the rest:

- `paper`: predicted efficiency on 8 to 1,024 chips, from what the compiled step sends between
  devices, published link rates, and the time of a step on one chip. Nothing of it was measured on
  such chips; the model is below.
- `virtual`: what splitting costs by itself: one global batch on 1, 2, 4 and 8 virtual CPU devices
  that share this machine's cores. The work is the same, so that a perfect ratio is 1.
- `processes`: two processes (`jax.distributed`, gloo) against one process with two devices.
- `batch`: images/s of one device over the batch size, as a ratio to the best.
- `devices`: images/s of 1 to all real devices, with as many images a device, as a ratio to as many
  times one device; needs more than one.

    python benchmarks/scaling.py --cases paper
    python benchmarks/scaling.py --cases virtual,processes,batch --out results/scaling.jsonl

The model of `paper`. A step takes the compute time of a device's share of the batch and the time of
its all-reduces, one after another. On GPUs, n of which form nodes of 8, an all-reduce of S bytes
takes

    base + 2 log2(min(n, 8)) a1 + 2 log2(nodes) a2                            latency of trees
    + 2 (g-1)/g S / B1 + 2 (m-1)/m (S/8) / B2         rings in a node of g and between m nodes

with links of B1 and B2 at 80 % of their rate (assumed). Latencies are those by which NCCL itself
chooses (`src/graph/tuning.cc` of 2.2x: base 6.8 us, a1 0.6 and a2 5 us for its protocol for small
messages, 8.4, 4 and 14 us for large ones); the faster of the two is taken, the first at half the
rate. On a torus of TPUs S is split over the rings of all axes: 2 (n-1)/n S / B, half of B where a
slice is too small for the torus to close, and a hop of 1 us (assumed) along half of each axis,
there and back. "hidden" lets gradients travel behind up to half of the compute, the backward
passes; statistics of batch norm never, since the next layer waits for them. A smaller share of a
batch is computed at the same rate (assumed, and too kind: see the row `check`). Weak scaling keeps
the images a chip, strong scaling the global batch.

DCGAN-64 (width 128) is compiled here: all-reduces, their bytes and FLOPs are those of the program
of 8 devices; of the chips' peak it reaches 20 % (assumed). BigGAN-128 and StyleGAN2-256 are not in
ganjax yet; their numbers are derived from the papers' layers (`MODELS`).
"""

import contextlib
import functools
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import common
import jax
import numpy as np

import ganjax
from ganjax import cost, sharding
from ganjax.networks import dcgan

CASES = ("paper", "virtual", "processes", "batch", "devices")
ANSWER = "answer: "
CHIPS = (8, 16, 32, 64, 128, 256, 512, 1024)


class Platform(NamedTuple):
    """Published rates: bfloat16 FLOP/s of a chip; bytes/s each way of its links.

    NVLink of the A100 600 GB/s and of the H100 900 GB/s in both directions (NVIDIA 2020 and 2022),
    InfiniBand NDR 400 Gb/s a GPU (ConnectX-7, 2022) and HDR 200 Gb/s (from memory, not used below);
    TPU v5p 1,200 GB/s in both directions over six links (cloud.google.com/tpu/docs/v5p, 2023).
    """

    flops: float
    near: float
    far: float
    torus: bool = False


PLATFORMS = {
    "A100": Platform(312e12, 300e9, 25e9),
    "H100": Platform(989e12, 450e9, 50e9),
    "TPU v5p": Platform(459e12, 600e9, 600e9, torus=True),
}
# Shapes of TPU v5p slices (cloud.google.com/tpu/docs/v5p); from 4x4x4 on the torus is closed.
SLICES = {
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
    256: (4, 8, 8),
    512: (8, 8, 8),
    1024: (8, 8, 16),
}


class Model(NamedTuple):
    """What a train step does.

    Attributes:
      seconds: of compute for one image, by platform.
      gradients: bytes of each all-reduce of gradients.
      statistics: bytes of each all-reduce that the next layer waits for.
      chip_batch: images a chip in weak scaling.
      global_batch: images in strong scaling.
      source: of the numbers.
    """

    seconds: Callable[[Platform], float]
    gradients: Sequence[float]
    statistics: Sequence[float]
    chip_batch: int
    global_batch: int
    source: str


MODELS = {
    # 4 generator and 8 discriminator forward passes' worth of 42.2 and 21.2 GFLOP for a real image
    # with one discriminator update: 338 GFLOP, at 30 % of the peak (assumed; by the same count the
    # published 237 images/s of 8 V100 in float32 are 64 % of theirs). 11 batch norms of 7,488
    # channels in all; two forward passes of the generator, one of them differentiated.
    "BigGAN-128": Model(
        seconds=lambda platform: 338e9 / (0.3 * platform.flops),
        gradients=[4 * 70.4e6, 4 * 88.0e6],
        statistics=[8 * 7488 / 11] * 33,
        chip_batch=16,
        global_batch=2048,
        source="arXiv:1809.11096, ch 96; parameters, FLOPs and batch norms derived from its layers",
    ),
    # Published: 12.53 s for 1,000 images on one A100; other chips by their peak. R1 every 16 steps
    # and path length every 4 send one more gradient each. No batch norm.
    "StyleGAN2-256": Model(
        seconds=lambda platform: 12.53e-3 * PLATFORMS["A100"].flops / platform.flops,
        gradients=[4 * 24.0e6 * (1 + 1 / 16), 4 * 24.8e6 * (1 + 1 / 4)],
        statistics=[],
        chip_batch=8,
        global_batch=64,
        source="stylegan3 docs/configs.md (time), paper256 widths (parameters derived)",
    ),
}


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "worker":
        return work(json.loads(sys.argv[2]))
    args = common.arguments(__doc__, CASES)
    results = common.Results("scaling", args.out)
    for case in args.cases:
        globals()[case](results, quick=args.quick)


# On paper.


def paper(results: common.Results, *, quick: bool) -> None:
    del quick
    models = {"DCGAN-64": compiled_dcgan(), **MODELS}
    for name, model in models.items():
        for chip in ("H100", "TPU v5p"):
            for scaling in ("weak", "strong"):
                row = predict(model, PLATFORMS[chip], scaling)
                print(f"{name} on {chip}, {scaling} scaling: predicted efficiency")
                for label in ("chips", "exposed", "hidden"):
                    print("  ", label.ljust(8), *(str(value).rjust(6) for value in row[label]))
                results.add_row(
                    f"paper/{name}/{chip}/{scaling}",
                    unit="efficiency",
                    **row,
                    gradient_megabytes=sum(model.gradients) / 1e6,
                    all_reduces=len(model.gradients) + len(model.statistics),
                    source=model.source,
                )
    # 8 A100 took 2.38 s for 1,000 images.
    row = predict(MODELS["StyleGAN2-256"], PLATFORMS["A100"], "strong", (8,))
    results.add_row("paper/check", unit="efficiency", **row, published=round(12.53 / (8 * 2.38), 3))


def compiled_dcgan() -> Model:
    """Return what the compiled step of DCGAN-64 does."""
    with workers({"devices": 8, "num_threads": 64}) as (worker,):
        found = ask(worker, {"compile": True})
    parameters = found["parameter_bytes"]
    # Each all-reduce of the program is of gradients or of statistics, or joins some of both.
    gradients = [size for size in found["all_reduces"] if size > 0.01 * parameters]
    statistics = [size for size in found["all_reduces"] if size <= 0.01 * parameters]
    return Model(
        seconds=lambda platform: found["flops"] / found["batch"] / (0.2 * platform.flops),
        gradients=gradients,
        statistics=statistics,
        chip_batch=128,
        global_batch=1024,
        source=f"compiled here, shard_map; {found['flops'] / found['batch'] / 1e9:.1f} GFLOP/image",
    )


def predict(
    model: Model, platform: Platform, scaling: str, chips: Sequence[int] = CHIPS
) -> dict[str, list]:
    """Return the predicted efficiency on some numbers of chips."""
    rows = {"chips": [], "milliseconds": [], "exposed": [], "hidden": []}
    for n in chips:
        share = model.chip_batch if scaling == "weak" else model.global_batch / n
        if share < 1:
            break
        compute = share * model.seconds(platform)
        gradients = sum(all_reduce_seconds(size, n, platform) for size in model.gradients)
        statistics = sum(all_reduce_seconds(size, n, platform) for size in model.statistics)
        late = max(0.0, gradients - 0.5 * compute)
        rows["chips"].append(n)
        rows["milliseconds"].append(float(f"{1e3 * compute:.3g}"))
        rows["exposed"].append(round(compute / (compute + gradients + statistics), 3))
        rows["hidden"].append(round(compute / (compute + late + statistics), 3))
    return rows


def all_reduce_seconds(size: float, n: int, platform: Platform) -> float:
    """Return the time of an all-reduce of `size` bytes over `n` chips, as said above."""
    if platform.torus:
        axes = SLICES[n]
        rate = platform.near if min(axes) >= 4 else platform.near / 2
        hops = 2 * sum(axis // 2 for axis in axes)
        return 2 * (n - 1) / n * size / (0.8 * rate) + 1e-6 * hops
    near, nodes = min(n, 8), math.ceil(n / 8)
    rings = 2 * (near - 1) / near * size / (0.8 * platform.near)
    rings += 2 * (nodes - 1) / nodes * (size / near) / (0.8 * platform.far)
    return min(
        base + 2 * math.log2(near) * a1 + 2 * math.log2(nodes) * a2 + slowdown * rings
        for base, a1, a2, slowdown in ((6.8e-6, 0.6e-6, 5e-6, 2.0), (8.4e-6, 4e-6, 14e-6, 1.0))
    )


# Measured.


def virtual(results: common.Results, *, quick: bool) -> None:
    numbers = (1, 2, 4, 8)
    # With fewer threads than devices, these can deadlock.
    with workers(*({"devices": n, "num_threads": 64} for n in numbers)) as started:
        turns = {
            f"{n} {layout}": functools.partial(ask, worker, {"layout": layout, "batch": 64})
            for n, worker in zip(numbers, started, strict=True)
            for layout in (("plain",) if n == 1 else sharding.LAYOUTS)
        }
        rates = common.in_turns(turns, quick=quick, rounds=5)
    for n, layout in (name.split() for name in turns if name != "1 plain"):
        results.add(
            f"virtual/{layout}/{n}", rates[f"{n} {layout}"], rates["1 plain"], peer="one device"
        )


def processes(results: common.Results, *, quick: bool) -> None:
    request, port = {"layout": "jit", "batch": 64}, free_port()
    pair = ({"devices": 1, "process": i, "port": port} for i in (0, 1))
    with workers({"devices": 2}, *pair) as (one, *two):

        def both():
            for peer in two:
                peer.send(request)
            first, _ = [peer.receive() for peer in two]
            return first

        turns = {"two": both, "one": functools.partial(ask, one, request)}
        rates = common.in_turns(turns, quick=quick, rounds=5)
    results.add("processes/jit/2", rates["two"], rates["one"], peer="one process with two devices")


def batch(results: common.Results, *, quick: bool) -> None:
    sizes = (8, 16, 32, 64, 128, 256)
    step = Steps(sharding.make_mesh(jax.devices()[:1]))
    turns = {size: functools.partial(step.run, layout="plain", batch=size) for size in sizes}
    rates = common.in_turns(turns, quick=quick, rounds=5)
    best = max(sizes, key=lambda size: np.median(rates[size]))
    for size in sizes:
        results.add(f"batch/{size}", rates[size], rates[best], peer=f"batches of {best}")


def devices(results: common.Results, *, quick: bool) -> None:
    count = jax.device_count()
    if count == 1:
        print("devices: there is one device here; nothing to compare")
        return
    numbers = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < count] + [count]
    turns = {}
    for n in numbers:
        steps = Steps(sharding.make_mesh(jax.devices()[:n]))
        for layout in ("plain",) if n == 1 else sharding.LAYOUTS:
            turns[f"{n} {layout}"] = functools.partial(steps.run, layout=layout, batch=64 * n)
    rates = common.in_turns(turns, quick=quick)
    for n, layout in (name.split() for name in turns if name != "1 plain"):
        ideal = [int(n) * rate for rate in rates["1 plain"]]
        results.add(
            f"devices/{layout}/{n}", rates[f"{n} {layout}"], ideal, peer=f"{n} times one device"
        )


class Steps:
    """Train steps of a small DCGAN on the devices of a mesh, compiled as they are asked for."""

    def __init__(self, mesh: jax.sharding.Mesh):
        self._mesh, self._ready = mesh, {}
        self._algorithm = small_dcgan((28, 28, 1), width=32)

    def run(self, layout: str, batch: int) -> float:
        """Do some steps and return their images."""
        if (layout, batch) not in self._ready:
            self._ready[layout, batch] = self._compile(layout, batch)
        step, images, state = self._ready[layout, batch]
        steps = 5 if batch <= 64 else 2
        for _ in range(steps):
            state, metrics = step(state, images)
            jax.block_until_ready(metrics)  # more virtual devices than cores can deadlock
        self._ready[layout, batch] = (step, images, state)
        return steps * batch

    def _compile(self, layout: str, batch: int):
        state = jax.jit(self._algorithm.init)(jax.random.key(0))
        images = np.random.default_rng(0).integers(0, 256, (batch, 28, 28, 1), np.uint8)
        if layout == "plain":
            device = self._mesh.devices.flat[0]
            step = jax.jit(self._algorithm.train_step, donate_argnums=0)
            return step, {"image": jax.device_put(images, device)}, jax.device_put(state, device)
        step = sharding.train_step(self._algorithm, self._mesh, layout)
        replicated = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec())
        split = jax.sharding.NamedSharding(self._mesh, sharding.batch_spec())
        if jax.process_count() == 1:
            return step, {"image": jax.device_put(images, split)}, jax.device_put(state, replicated)
        # The parts of the global arrays that lie in this process.
        share = np.split(images, jax.process_count())[jax.process_index()]
        whole = jax.make_array_from_process_local_data
        state = jax.jit(self._algorithm.init, out_shardings=replicated)(jax.random.key(0))
        return step, {"image": whole(split, share)}, state


def small_dcgan(shape: tuple[int, int, int], width: int) -> ganjax.Algorithm:
    return ganjax.gan(
        dcgan.Generator(shape, width=width),
        dcgan.Discriminator(width=width),
        latents=ganjax.latents.normal(100),
        share_fakes=True,
        ema_half_life_images=10_000.0,
    )


# Processes with devices of their own.


class Worker:
    """A process that answers each line of JSON with one.

    Args:
      devices: its virtual CPU devices.
      process: its number in a training over two.
      port: where these meet, or None for a process of its own.
      num_threads: of JAX's pool; 0 for as many as there are cores.
    """

    def __init__(
        self, devices: int, process: int = 0, port: int | None = None, num_threads: int = 0
    ):
        settings = {"devices": devices, "process": process, "port": port}
        threads = {"NPROC": str(num_threads)} if num_threads else {}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "JAX_PLATFORMS": "cpu"},
        )

    def send(self, request: dict) -> None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self):
        for line in self._process.stdout:
            if line.startswith(ANSWER):  # libraries print as well
                return json.loads(line.removeprefix(ANSWER))
        raise SystemExit(f"a worker ended with code {self._process.wait()}")

    def stop(self) -> None:
        self._process.stdin.close()

    def wait(self) -> None:
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextlib.contextmanager
def workers(*settings: dict) -> Iterator[list[Worker]]:
    """Start workers and end them together: processes of one training wait for each other."""
    started = [Worker(**each) for each in settings]
    try:
        yield started
    finally:
        for worker in started:
            worker.stop()
        for worker in started:
            worker.wait()


def ask(worker: Worker, request: dict):
    worker.send(request)
    return worker.receive()


def work(settings: dict) -> None:
    """Be a worker: answer the requests on standard input until it ends."""
    jax.config.update("jax_num_cpu_devices", settings["devices"])
    if settings["port"] is not None:
        jax.distributed.initialize(f"localhost:{settings['port']}", 2, settings["process"])
    mesh = sharding.make_mesh()
    steps = Steps(mesh)
    for line in sys.stdin:
        request = json.loads(line)
        answer = collectives(mesh) if "compile" in request else steps.run(**request)
        print(ANSWER + json.dumps(answer), flush=True)


def collectives(mesh: jax.sharding.Mesh) -> dict:
    """Compile the step of DCGAN-64 for one device and for those of a mesh."""
    shape, batch = (64, 64, 3), 128
    algorithm = small_dcgan(shape, width=128)
    inputs = cost.step_inputs(algorithm, shape, batch)
    split = sharding.train_step(algorithm, mesh, "shard_map").lower(*inputs).compile()
    sizes = [
        each.bytes
        for each in cost.collectives(split.as_text())
        for _ in range(each.count)
        if each.kind == "all-reduce"
    ]
    parameters = [player.params for player in inputs[0].players.values()]
    return {
        "all_reduces": sizes,
        "parameter_bytes": sum(4 * math.prod(p.shape) for p in jax.tree.leaves(parameters)),
        "flops": cost.step_cost(algorithm, shape, batch).flops,
        "batch": batch,
    }


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
