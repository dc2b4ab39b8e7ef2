"""Goodput: the part of all time that went into steps which are still in the weights.

    productive time / (now - the run's first start)

What counts as lost: starting, compiling, saving, evaluating, steps skipped as bad, done again after a kill or left out by
a roll-back, and the time in which nothing ran. Fact: the Gemini report (section 3) gives 85 % before and 97 % after the move from
storage to copies in memory.
"""

import time

GOOD = "productive_s"  # as metrics.jsonl names it: the time of all steps up to that record's


class Meter:
    """Runs like a stopwatch with laps: each lap was productive or not."""

    def __init__(self, begun: float, records: list[dict], start: int):
        """`begun` is the run's first start in seconds of time.time(); `records` are of steps up to `start`."""
        self.begun = begun
        known = [r for r in records if GOOD in r]
        self.productive_s = known[-1][GOOD] * start / known[-1]["step"] if known else 0.0
        self.last = time.perf_counter()

    def lap(self, is_productive: bool) -> float:
        """The time since the last lap, which went into a step that stays, or into something else."""
        before, self.last = self.last, time.perf_counter()
        self.productive_s += (self.last - before) * is_productive
        return self.last - before

    def figures(self) -> dict[str, float]:
        return {GOOD: self.productive_s, "goodput": self.productive_s / max(time.time() - self.begun, self.productive_s, 1e-9)}  # a clock may be set back
