"""Does a long training stay as it was: memory, open files, threads and speed?

Trains without end, with a checkpoint every few steps (thousands of them are written, proven and
removed), pictures and scores on the way, and looks at its own process once a second. The first
fifth of the time is warm-up. A row has the usual resident memory after it, and of each tenth of
the time memory and speed as ratios to their medians, and how many files and threads were open.
`flat` says that memory stayed within 2 percent, no tenth was slower than 0.9, and the second half
usually had no more files and threads than some tenth of the first (all are medians; the highest
memory of any second is in the row, too). What else the machine does shows in the speed.

    python benchmarks/soak.py --minutes 32 --out benchmarks/results/cpu-2-cores/soak.jsonl
"""

import os
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path

import common

from ganjax import loop, train
from ganjax.config import GAN, Config, Data, Evaluation, OptimizerSettings, Train
from ganjax.networks.dcgan import DCGAN
from ganjax.networks.mlp import MLP
from ganjax.quiet import share_memory_arenas

ADAM = OptimizerSettings(learning_rate=2e-4)
CASES = {
    "images": Config(
        name="soak",
        model=GAN(
            network=DCGAN(latent_dim=16, generator_width=8, discriminator_width=8),
            conditional=True,
            ema_half_life_images=1000.0,
        ),
        data=Data(source="fashion_mnist", image_size=(16, 16)),
    ),
    "streamed points": Config(
        name="soak",
        model=GAN(network=MLP(), generator=ADAM, discriminator=ADAM),
        data=Data(source="ring", memory="stream"),
    ),
}
EVERY_STEPS = 20  # a checkpoint


class Watch(train.Silent):
    """Looks at this process once a second, until it asks it to stop."""

    def __init__(self, seconds: float):
        self.seconds, self.step = seconds, 0
        self.seen: list[tuple[float, int, float, int, int]] = []
        self._first = time.monotonic()
        threading.Thread(target=self._look, daemon=True).start()

    def progress(self, progress: loop.Progress) -> None:
        self.step = max(self.step, progress.step)

    def _look(self) -> None:
        while (now := time.monotonic() - self._first) < self.seconds:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            files, tasks = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
            self.seen.append((now, self.step, memory, files, tasks))
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    minutes = {"type": float, "default": 32.0, "help": "how long to train"}
    args = common.arguments(__doc__, tuple(CASES), ("images",), minutes=minutes)
    results = common.Results("soak", args.out, add_to=True)
    share_memory_arenas()  # as the command does
    for case in args.cases:
        with tempfile.TemporaryDirectory() as folder:
            watch = Watch(40.0 if args.quick else 60.0 * args.minutes)
            settings = Config(
                name=CASES[case].name,
                model=CASES[case].model,
                data=CASES[case].data,
                train=Train(
                    steps=10**9,
                    batch_size=32,
                    log_every_steps=EVERY_STEPS,
                    checkpoint_every_steps=EVERY_STEPS,
                    sample_every_steps=50 * EVERY_STEPS,
                ),
                evaluation=Evaluation(num_samples=200, every_steps=50 * EVERY_STEPS),
            )
            try:
                train.train(settings, str(Path(folder) / "run"), watch)
            except loop.StoppedError as stopped:
                results.add_row(case, **row(watch, stopped.step))


def row(watch: Watch, steps: int) -> dict:
    """Return what was seen, and whether it is flat."""
    warm = [entry for entry in watch.seen if entry[0] > watch.seconds / 5 and entry[1]]
    size = max(1, len(warm) // 10)
    tenths = [part for i in range(0, size * 10, size) if len(part := warm[i : i + size + 1]) > 1]
    memory, files, threads = (
        [statistics.median(entry[column] for entry in tenth) for tenth in tenths]
        for column in (2, 3, 4)
    )
    middle = statistics.median(memory)
    memory = [value / middle for value in memory]
    speeds = [(tenth[-1][1] - tenth[0][1]) / (tenth[-1][0] - tenth[0][0]) for tenth in tenths]
    usual = statistics.median(speeds) or 1.0
    speeds = [speed / usual for speed in speeds]
    return {
        "unit": "MB",
        "minutes": watch.seconds / 60,
        "steps": steps,
        "checkpoints": steps // EVERY_STEPS,
        "memory": middle,
        "memory_by_tenth": memory,
        "memory_highest": max(entry[2] for entry in warm) / middle,
        "speed_by_tenth": speeds,
        "files_by_tenth": files,
        "threads_by_tenth": threads,
        "flat": all(0.98 < value < 1.02 for value in memory)
        and min(speeds) > 0.9
        and not grows(files)
        and not grows(threads),
    }


def grows(values: list[float]) -> bool:
    """Return whether the second half is usually above everything in the first."""
    half = len(values) // 2
    return statistics.median(values[half:]) > max(values[:half])


if __name__ == "__main__":
    main()
