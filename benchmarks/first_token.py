"""How long a person waits for the first token: python benchmarks/first_token.py RUN [PART ...]

Three processes one after another: nothing kept of earlier ones, then twice with the compiled programs of the first. A line
for each stage: CPU-seconds, wall seconds, programs compiled or read back. What Python itself takes to start, about 0.02
CPU-seconds, is not counted.
"""

import os
import subprocess
import sys
import tempfile
import time


def stages(run: str, parts: list[str]) -> None:
    """The way of sample.py to its first token, timed."""
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
    from gemini_mini import api
    from gemini_mini.decode import options
    import sample  # noqa: F401
    lap("imports")
    model = api.load(run)
    lap("weights")
    ids = model.encode(parts)
    lap("prompt")
    model.answer([ids], options.Options(), lambda *_: lap("token") is None)
    print(f"  {'in all':10} {time.process_time():6.2f} CPU-s {time.monotonic() - START:6.2f} s", flush=True)


def main() -> None:
    run, *parts = sys.argv[1:]
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "cached", "cached again"):
            print(name, flush=True)
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "FIRST_TOKEN": "1", "PYTHONPATH": os.getcwd()}
            subprocess.run([sys.executable, __file__, run, *(parts or ["Draw: red heart"])], env=environment, check=True)


if __name__ == "__main__":
    START = time.monotonic()
    stages(sys.argv[1], sys.argv[2:]) if "FIRST_TOKEN" in os.environ else main()
