"""How long a person waits for the first token: python -m benchmarks.first_token RUN [PART ...]

Three processes one after another: nothing kept of earlier ones, then twice with the compiled programs of the first.
"""

import sys

from benchmarks import stages


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


if __name__ == "__main__":
    if stages.IS_TIMED:
        timed(sys.argv[1], sys.argv[2:] or ["Draw: red heart"])
    else:
        stages.in_processes("benchmarks.first_token", ("cold", "cached", "cached again"), sys.argv[1:])
