"""Train one stage: python train.py CONFIG [name=value ...]

    python train.py configs/demo.py                       the decoder of `make demo`
    python train.py configs/demo.py optim.lr=2e-3 run.folder=runs/faster
    python train.py configs/image_tokenizer.py            the tokenizer it reads
    python train.py configs/nano1.py --plan v5e:4x4       what a step needs on a TPU pod, without one
    python train.py configs/nano1.py --pod                the same command on every host of one

Stopped at any moment, the same command continues; finished, it says so and does nothing.
"""

import sys

from gemini_mini import errors, memory

if __name__ == "__main__":
    memory.keep()  # before what takes a second to import: it starts the program again
    errors.end_quietly()

import jax  # noqa: E402

from gemini_mini import config, run  # noqa: E402
from gemini_mini.plan import launch  # noqa: E402
from gemini_mini.train import loop  # noqa: E402


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    if "--plan" in sys.argv:
        launch.start(sys.argv[1:])
    if "--pod" in sys.argv:
        jax.distributed.initialize()
        sys.argv.remove("--pod")
    experiment = config.load(sys.argv[1], sys.argv[2:])
    run.keep_compiled()
    loop.run(experiment.task, experiment.optim, experiment.run, config.to_json(experiment))


if __name__ == "__main__":
    errors.run(main)
