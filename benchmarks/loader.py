"""Batches a second against steps a second: python benchmarks/loader.py configs/demo.py [name=value ...]

The config may be any of the three that the loop trains. A line with CPU-milliseconds and wall milliseconds of a batch,
placed on its devices, and of a step, the median of some, and the ratio.
"""

import argparse
import time

import jax
import numpy as np

from gemini_mini import config, errors
from gemini_mini.train import setup

BATCHES, STEPS = 100, 5


def timed(function) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.monotonic()
    jax.block_until_ready(function())
    return 1e3 * (time.process_time() - cpu), 1e3 * (time.monotonic() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="name=value")
    args = parser.parse_args()
    experiment = config.load(args.config, args.overrides)
    run = experiment.run
    built = setup.build(experiment.task, experiment.optim, run, run.steps)
    state, batches, steps = built.fresh(), [], []
    for n in range(BATCHES):
        batches.append(timed(lambda: built.batch(n)))
    for n in range(STEPS + 1):
        batch = built.batch(n)

        def step():
            nonlocal state
            state, metrics = built.step(state, batch)
            return metrics

        steps.append(timed(step))
    (batch_cpu, batch_wall), (step_cpu, step_wall) = np.median(batches[1:], axis=0), np.median(steps[1:], axis=0)
    print(f"{args.config}: batch {batch_cpu:.2f} CPU-ms {batch_wall:.2f} ms, step {step_cpu:.0f} CPU-ms {step_wall:.0f} ms, "
          f"loader {step_cpu / batch_cpu:.0f} times as fast by CPU, {step_wall / batch_wall:.0f} by the clock")


if __name__ == "__main__":
    errors.run(main)
