"""How long until the first step is done: python benchmarks/first_step.py configs/demo.py [name=value ...]

Two processes: nothing kept of earlier ones, then with the compiled programs of the first. A line for each stage:
CPU-seconds, wall seconds, programs compiled or read back.
"""

import os
import subprocess
import sys
import tempfile
import time


def stages(arguments: list[str]) -> None:
    """The way of train.py to its first step, timed."""
    import jax

    last, compiled = [0.0, START], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None)

    def lap(name: str) -> None:
        now = [time.process_time(), time.monotonic()]
        print(f"  {name:10} {now[0] - last[0]:6.2f} CPU-s {now[1] - last[1]:6.2f} s {len(compiled):3d} programs", flush=True)
        last[:] = now
        compiled.clear()

    lap("jax")
    import train  # noqa: F401
    from gemini_mini import config
    from gemini_mini.train import setup
    lap("imports")
    experiment = config.load(arguments[0], arguments[1:])
    task, run = experiment.task, experiment.run
    task.inputs()
    lap("data")
    built = setup.build(task, experiment.optim, run.mesh, run.seed, run.steps)
    lap("model")
    state = jax.block_until_ready(built.fresh())
    lap("state")
    batch = built.batch(0)
    lap("batch")
    jax.block_until_ready(built.step(state, batch))
    lap("step")
    print(f"  {'in all':10} {time.process_time():6.2f} CPU-s {time.monotonic() - START:6.2f} s", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "cached"):
            print(name, flush=True)
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "FIRST_STEP": "1", "PYTHONPATH": os.getcwd(),
                                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            subprocess.run([sys.executable, __file__, *sys.argv[1:]], env=environment, check=True)


if __name__ == "__main__":
    START = time.monotonic()
    stages(sys.argv[1:]) if "FIRST_STEP" in os.environ else main()
