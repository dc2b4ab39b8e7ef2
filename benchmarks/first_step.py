"""How long until the first step is done: python -m benchmarks.first_step configs/demo.py [name=value ...]

Two processes: nothing kept of earlier ones, then with the compiled programs of the first.
"""

import sys

from benchmarks import stages


def timed(arguments: list[str]) -> None:
    """The way of train.py to its first step."""
    laps = stages.Laps()
    import jax
    import train  # noqa: F401
    from gemini_mini import config
    from gemini_mini.train import setup
    laps.lap("imports")
    experiment = config.load(arguments[0], arguments[1:])
    task, run = experiment.task, experiment.run
    task.inputs()
    laps.lap("data")
    built = setup.build(task, experiment.optim, run, run.steps)
    laps.lap("model")
    state = jax.block_until_ready(built.fresh())
    laps.lap("state")
    batch = built.batch(0)
    laps.lap("batch")
    jax.block_until_ready(built.step(state, batch))
    laps.lap("step")
    laps.end()


if __name__ == "__main__":
    if stages.IS_TIMED:
        timed(sys.argv[1:])
    else:
        stages.in_processes("benchmarks.first_step", ("cold", "cached"), sys.argv[1:])
