"""How long a person waits for the first token: python -m benchmarks.first_token RUN [PART ...]

First the command itself, `python sample.py RUN PART ...`, from the start of its process to the first letter that it
says: three times with nothing kept of earlier runs, and three times with the compiled programs of one before. A picture is
shown when it is whole, so the answer is to be text. Then where the time goes: three processes one after another, nothing
kept of earlier ones, then twice with the compiled programs of the first.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import stages
from gemini_mini import errors

NUM_TIMES = 3
SAMPLE = Path(__file__).parents[1] / "sample.py"


def waited(run: str, parts: list[str], cache: str) -> float:
    """Seconds until sample.py says anything; it is stopped then."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory() as out:
        start = time.monotonic()
        command = [sys.executable, str(SAMPLE), run, *parts, "--out", str(Path(out, "answer")), "--modalities", "text"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            said = process.stdout.read(1)
            seconds = time.monotonic() - start
            process.terminate()
    if not said:
        raise errors.InputError("sample.py said nothing; its errors stand above")
    return seconds


def timed(run: str, parts: list[str]) -> None:
    """The way of sample.py to its first token."""
    laps = stages.Laps()
    from gemini_mini import api
    from gemini_mini.decode import options
    import sample  # noqa: F401
    laps.lap("imports")
    model = api.load(run)
    laps.lap("weights")
    ids = model.encode(parts)
    laps.lap("prompt")
    model.answer([ids], options.Options(), lambda *_: laps.lap("token") is None)
    laps.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="folder that train.py made, or a released file")
    parser.add_argument("parts", metavar="PART", nargs="*", default=["Draw: red heart"], help="as of sample.py (default %(default)s)")
    args = parser.parse_args()
    if stages.IS_TIMED:
        return timed(args.run, args.parts)
    with tempfile.TemporaryDirectory() as kept:
        cold = [waited(args.run, args.parts, empty) for empty in (tempfile.mkdtemp(dir=kept) for _ in range(NUM_TIMES))]
        waited(args.run, args.parts, kept)
        warm = [waited(args.run, args.parts, kept) for _ in range(NUM_TIMES)]
    for name, seconds in (("cold", cold), ("warm", warm)):
        print(f"sample.py to its first token, {name}: median {statistics.median(seconds):.2f} s of "
              + ", ".join(f"{each:.2f}" for each in seconds), flush=True)
    stages.in_processes("benchmarks.first_token", ("cold", "cached", "cached again"), [args.run, *args.parts])


if __name__ == "__main__":
    errors.run(main)
