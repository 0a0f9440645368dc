"""Do gradient penalties stay finite and as good in bfloat16, without a scale on the loss?

Trains small networks on fashion_mnist at 16x16 with the same seeds in float32 and in bfloat16 (of
the networks' arithmetic; parameters, penalties' sums and optimizer stay float32), every step that
is not finite left out and counted. The ratio is the Fréchet distance in float32 over that in
bfloat16: above 1 bfloat16 was better. How far seeds differ is in `ganjax` and `peer`, the means.

    python benchmarks/bfloat16.py --out benchmarks/results/cpu-2-cores/bfloat16.jsonl
"""

import statistics
import tempfile
from pathlib import Path

import common

from ganjax import train
from ganjax.config import GAN, Config, Data, Evaluation, OptimizerSettings, Penalty, Train
from ganjax.networks.dcgan import DCGAN
from ganjax.networks.wgan_gp import WGANGP
from ganjax.run import RunDirectory

CRITIC = OptimizerSettings(learning_rate=2e-4, beta1=0.0, beta2=0.9)
DCGAN_16 = DCGAN(generator_width=16, discriminator_width=16, discriminator_batch_norm=False)
CASES = {
    "gradient_penalty": GAN(
        network=WGANGP(generator_width=16, discriminator_width=16),
        loss="wasserstein",
        penalties={"gradient_penalty": Penalty(10.0)},
        generator=CRITIC,
        discriminator=CRITIC,
        discriminator_steps=3,
    ),
    "r1": GAN(network=DCGAN_16, penalties={"r1": Penalty(1.0)}),
    "lazy r1": GAN(network=DCGAN_16, penalties={"r1": Penalty(1.0, interval=16)}),
    "r1 and r2": GAN(
        network=DCGAN_16,
        loss="relativistic",
        penalties={"r1": Penalty(1.0), "r2": Penalty(1.0)},
    ),
}


def main() -> None:
    steps = {"type": int, "default": 1500, "help": "of each training"}
    seeds = {"type": int, "default": 2, "help": "trainings in each precision"}
    args = common.arguments(__doc__, tuple(CASES), steps=steps, seeds=seeds)
    results = common.Results("bfloat16", args.out)
    count, seeds = (20, 1) if args.quick else (args.steps, args.seeds)
    for case in args.cases:
        distances: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        skipped = dict.fromkeys(distances, 0)
        largest = dict.fromkeys(distances, 0.0)
        for seed in range(seeds):
            for precision, found in distances.items():
                with tempfile.TemporaryDirectory() as folder:
                    settings = Config(
                        name="bfloat16",
                        model=CASES[case],
                        data=Data(source="fashion_mnist", image_size=(16, 16)),
                        train=Train(
                            steps=count,
                            seed=seed,
                            precision=precision,
                            on_divergence="skip",
                            log_every_steps=10,
                            sample_every_steps=count,
                        ),
                        evaluation=Evaluation(num_samples=1000),
                    )
                    result = train.train(settings, str(Path(folder) / "run"))
                    lines = RunDirectory(Path(folder) / "run").read_metrics()
                found.append(result.figures["frechet_distance"].value)
                skipped[precision] += sum(line.get("skipped_steps", 0) for line in lines)
                norms = (line.get("grad_norm/discriminator") or 0.0 for line in lines)
                largest[precision] = max(largest[precision], *norms)
        results.add(
            case,
            [1 / distance for distance in distances["bfloat16"]],
            [1 / distance for distance in distances["float32"]],
            unit="1/distance",
            peer="float32",
            steps=count,
            seeds=seeds,
            distances=distances,
            mean={name: statistics.mean(found) for name, found in distances.items()},
            skipped_steps=skipped,
            largest_gradient_norm=largest,
        )


if __name__ == "__main__":
    main()
