"""What a run writes down of its steps: the trace, the figures, the bar; one step late, so that the device never waits."""

import contextlib
from pathlib import Path

from gemini_mini import progress
from gemini_mini.train import goodput, machine, metrics as metrics_lib, recovery, trace


class Recorder:
    """Of a run from `start` on, in the folder `notes`; `begun` is the time of its first start, `how` that of setup.Built."""

    def __init__(self, notes: Path, start: int, steps: int, begun: float, log_every: int, max_bad: int, bar: progress.bar, how: dict):
        self.notes, self.start, self.steps, self.log_every, self.max_bad, self.bar = notes, start, steps, log_every, max_bad, bar
        self.how = how
        self.writer = metrics_lib.Writer(notes, start)
        self.meter = goodput.Meter(begun, metrics_lib.read(notes), start)
        self.peak = machine.peak_flops()
        self.tracer: trace.Writer | None = None  # opened by the first step, which knows the leaves
        self.late: tuple | None = None
        self.stepping_s = 0.0
        self.logged = start + 1, 0.0  # the first step compiles: it has no speed

    def dispatched(self, done: int, step: trace.Step, reads: dict[str, float], batch_tokens: int, batch_flops: int) -> None:
        """Step `done` runs by now: write down the one before it. Raises: Diverged."""
        self.tracer = self.tracer or trace.Writer(self.notes, self.start, step.names(), self.how)
        self.settle()
        self.late = done, step.metrics, step.sums(), reads, batch_tokens, batch_flops
        self.bar.advance()

    def settle(self) -> bool:
        """Wait for the newest step and write it down; whether it was a good one. Raises: Diverged."""
        if self.late is None:
            return True
        (done, metrics, sums, reads, batch_tokens, batch_flops), self.late = self.late, None
        self.tracer.write(trace.row(sums))
        values = {name: float(x) for name, x in metrics.items()}
        is_first, is_good = done == self.start + 1, not values["bad_in_a_row"]
        step_s = self.meter.lap(is_productive=is_good and not is_first)
        self.stepping_s += 0.0 if is_first else step_s
        if values["bad_in_a_row"] >= self.max_bad:
            raise recovery.Diverged(done, f"{self.max_bad} bad steps in a row up to step {done} (loss {values['loss']:.3g}, "
                                          f"gradient norm {values['grad_norm']:.3g})")
        if done % self.log_every == 0 or done == self.steps:
            rate = (done - self.logged[0]) / max(self.stepping_s - self.logged[1], 1e-9)
            self.logged = done, self.stepping_s
            speed = {"tokens_per_s": rate * batch_tokens, "mfu": rate * batch_flops / self.peak}
            self.writer.write(done, {**values, **speed, **reads, **self.meter.figures()})
            skipped = {"skipped": f"{values['skipped']:.0f}"} if values["skipped"] else {}
            self.bar.info.update(loss=values["loss"], **skipped,
                                 **{"tok/s": f"{speed['tokens_per_s']:,.0f}", "mfu": f"{speed['mfu']:.0%}"})
        return is_good

    def figures(self, done: int, figures: dict) -> None:
        """What an evaluation found, unless that is written down already: a kill may have come just after."""
        if not metrics_lib.has(self.notes, done, figures):
            self.writer.write(done, figures)

    def has_figures(self, done: int) -> bool:
        """Whether an evaluation of step `done` is written down."""
        return any(record["step"] == done and goodput.GOOD not in record for record in metrics_lib.read(self.notes))

    def paused(self) -> None:
        """The time since the last step went into something else than training."""
        self.meter.lap(is_productive=False)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:
            for each in (self.writer, self.tracer):
                if each:
                    stack.callback(each.close)
