"""How fast is an evaluation, and does it keep a device waiting?

inception: features/s of the FID's Inception network on 32x32 images, resizing included, against
the same network in PyTorch in its faster memory layout; both in float32, weights random and equal,
features compared. frechet: the distance of 50,000 samples with 2,048 features, moments included,
against pytorch-fid's way (numpy.cov and scipy.linalg.sqrtm), with the memory that each takes.
device: the share of a training with scores in which its device has nothing to do.

    python benchmarks/evaluation.py --cases inception,frechet
"""

import copy
import dataclasses
import statistics
import subprocess
import sys
import time
import tracemalloc

import common
import numpy as np

CASES = ("frechet_512", "inception", "frechet", "device")
_BATCH = {"cpu": 16, "gpu": 128}


def main() -> None:
    args = common.arguments(__doc__, CASES, child={"help": "internal"})
    if args.child:
        _frechet_child(args.child)
        return
    results = common.Results("evaluation", args.out)
    for name in args.cases:
        if name == "inception":
            inception(results, args.quick)
        elif name == "device":
            device(results, args.quick)
        else:
            count, dim = (50_000, 2048) if name == "frechet" else (5000, 512)
            frechet(results, name, count, dim)


def inception(results: common.Results, quick: bool) -> None:
    """Compare features/s, and the features."""
    import jax
    import torch
    import torch_inception
    from torch.nn import functional

    from ganjax.evaluation import inception_v3
    from ganjax.networks.inception import resize

    on_gpu = jax.default_backend() == "gpu"
    batch = _BATCH["gpu" if on_gpu else "cpu"]
    torch.manual_seed(0)
    network = torch_inception.Inception().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    state_dict = {name: value.numpy() for name, value in network.state_dict().items()}
    extract = inception_v3(state_dict, batch_size=batch)
    images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)

    where = torch.device("cuda" if on_gpu else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    network = network.to(where)

    def peer(layout):
        def turn():
            with torch.inference_mode():
                pixels = torch.from_numpy(images).to(where).permute(0, 3, 1, 2).float()
                # The usual interpolation: it costs what TensorFlow's would.
                resized = functional.interpolate(pixels, (299, 299), mode="bilinear")
                x = ((resized - 128) / 128).contiguous(memory_format=layout)
                layouts[layout](x).cpu()
            return batch

        return turn

    formats = (torch.contiguous_format, torch.channels_last)
    layouts = {layout: copy.deepcopy(network).to(memory_format=layout) for layout in formats}

    def ours():
        extract(images)
        return batch

    turns = {"ganjax": ours, **{str(layout): peer(layout) for layout in layouts}}
    pixels = (np.asarray(resize(images, 299)) - 128) / 128
    with torch.inference_mode():
        theirs = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(where)).cpu().numpy()
    mine = extract(images)["2048"]
    error = float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))
    rates = common.in_turns(turns, quick=quick)
    best = max(turns.keys() - {"ganjax"}, key=lambda name: statistics.median(rates[name]))
    results.add("inception", rates["ganjax"], rates[best], peer=f"PyTorch, {best}", error=error)


def frechet(results: common.Results, name: str, count: int, dim: int) -> None:
    """Compare seconds and memory, each in a process of its own."""
    seconds, memory, values = {}, {}, {}
    for who in ("ganjax", "peer"):
        process = subprocess.run(
            [sys.executable, __file__, "--child", f"{who}:{count}:{dim}"],
            capture_output=True,
            text=True,
            check=True,
        )
        numbers = map(float, process.stdout.split())
        seconds[who], memory[who], values[who] = numbers
    results.add_row(
        name,
        ganjax=1 / seconds["ganjax"],
        peer=1 / seconds["peer"],
        peer_name="pytorch-fid's numerics",
        unit="distances/s",
        ratio=seconds["peer"] / seconds["ganjax"],
        ganjax_seconds=seconds["ganjax"],
        peer_seconds=seconds["peer"],
        ganjax_mib=memory["ganjax"],
        peer_mib=memory["peer"],
        difference=abs(values["ganjax"] - values["peer"]) / values["peer"],
    )


def _frechet_child(task: str) -> None:
    """Print seconds, peak memory in MiB beyond that of the features, and the distance."""
    who, count, dim = task.split(":")
    count, dim = int(count), int(dim)

    def features(seed: int, scale: float) -> np.ndarray:
        random = np.random.default_rng(seed)
        mixing = np.random.default_rng(9).standard_normal((dim, dim), np.float32) / np.sqrt(dim)
        filled = np.empty((count, dim), np.float32)
        for rows in np.split(filled, count // 1000):
            rows[:] = np.maximum(scale * random.standard_normal(rows.shape, np.float32) @ mixing, 0)
        return filled

    generated, real = features(0, 1.1), features(1, 1.0)
    if who == "ganjax":
        from ganjax.evaluation import frechet_distance

        tracemalloc.start()
        start = time.perf_counter()
        value = frechet_distance(generated, real)
    else:
        import scipy.linalg

        tracemalloc.start()
        start = time.perf_counter()
        means = [x.mean(axis=0) for x in (generated, real)]
        covariances = [np.cov(x, rowvar=False) for x in (generated, real)]
        root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
        shift = means[0] - means[1]
        value = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    seconds = time.perf_counter() - start
    print(seconds, tracemalloc.get_traced_memory()[1] / 2**20, float(value))


def device(results: common.Results, quick: bool) -> None:
    """Measure what a training with scores takes beyond its steps, its samples and looking at them.

    Each is timed on its own; what is left over is time in which the device waits for the host.
    """
    from ganjax import config, loop
    from ganjax.build import build
    from ganjax.judging import Judge

    settings = config.load_file("quickstart")
    every, times = 100, 2 if quick else 5
    settings = dataclasses.replace(
        settings,
        train=dataclasses.replace(settings.train, steps=every * times, log_every_steps=every),
        evaluation=dataclasses.replace(
            settings.evaluation,
            every_steps=every,
            num_samples=1000,
            metrics=("frechet_distance", "classifier_score", "precision_recall"),
        ),
    )
    experiment = build(settings)
    algorithm = experiment.model.algorithm
    scorer = Judge(experiment)

    def run(callbacks):
        import jax

        state = jax.jit(algorithm.init)(jax.random.key(0))
        return loop.fit(
            algorithm,
            state,
            experiment.train,
            steps=every * times,
            batch_size=settings.train.batch_size,
            log_every_steps=every,
            callbacks=callbacks,
        )

    from ganjax.train import Scores

    with Scores(scorer) as scores:

        def score(progress):
            scores.submit(progress.step, progress.state)

        def collect(progress):
            list(scores.ready(wait=False))

        clock = []
        for callbacks in ([], [loop.Callback(score, every), loop.Callback(collect)]) * 2:
            start = time.perf_counter()
            run(callbacks)
            list(scores.ready(wait=True))
            clock.append(time.perf_counter() - start)
    plain, scored = clock[-2:]
    looking = times * _device_seconds(experiment, settings.evaluation.num_samples)
    idle = max(0.0, scored - plain - looking) / scored
    results.add_row(
        "device",
        ganjax=idle,
        unit="share of the time without work for the device",
        seconds=scored,
        seconds_of_steps=plain,
        seconds_of_samples=looking,
        scores=times,
    )


def _device_seconds(experiment, num_samples: int) -> float:
    """Return how long the device takes to draw samples and look at them, never waiting."""
    import jax

    from ganjax.evaluation import fashion_mnist_classifier

    algorithm = experiment.model.algorithm
    state = jax.jit(algorithm.init)(jax.random.key(0))
    sample = jax.jit(lambda state, key: algorithm.sample(state, key, 250))
    look = jax.jit(fashion_mnist_classifier().network)
    evaluate = jax.jit(algorithm.evaluate)
    held_out = experiment.held_out
    size = experiment.config.train.batch_size
    batches = [
        held_out.batch(np.arange(start, start + size))
        for start in range(0, held_out.num_examples - size + 1, size)
    ]

    def work():
        start, keys = time.perf_counter(), jax.random.split(jax.random.key(0), num_samples // 250)
        outputs = [look(sample(state, key)) for key in keys]
        outputs += [evaluate(state, batch, keys[0]) for batch in batches]
        jax.block_until_ready(outputs)
        return time.perf_counter() - start

    work()
    return statistics.median([work() for _ in range(5)])


if __name__ == "__main__":
    main()
