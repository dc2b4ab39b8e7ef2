"""Progress with the time left: a live bar on a terminal, a line now and then in a log."""

import sys
import time
from types import TracebackType

from rich import progress as rich_progress

LOG_EVERY_S = 5.0


class bar:
    """`with progress.bar("speech", 4000, "clips") as b: b.advance(8, loss=1.2)`."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0):
        self.label, self.total, self.unit = label, total, unit
        self.done = self.first = done
        self.info: dict[str, float | str] = {}
        self.start = self.logged = time.monotonic()
        self.live = None
        if sys.stderr.isatty():
            self.live = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"), rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(), rich_progress.TextColumn(unit + " {task.fields[info]}"),
                rich_progress.TimeElapsedColumn(), rich_progress.TimeRemainingColumn(),
            )
            self.task = self.live.add_task(label, total=total, completed=done, info="")

    def __enter__(self) -> "bar":
        if self.live:
            self.live.start()
        return self

    def advance(self, n: int = 1, **info: float | str) -> None:
        """Count `n` more units done; `info` is shown beside the bar."""
        self.done += n
        self.info.update(info)
        if self.live:
            self.live.update(self.task, completed=self.done, info=self._info())
        elif time.monotonic() - self.logged > LOG_EVERY_S:
            self._log()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()
        elif self.logged != self.start:  # short work stays silent
            self._log()

    def _info(self) -> str:
        return " ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.info.items())

    def _log(self) -> None:
        self.logged = time.monotonic()
        spent = self.logged - self.start
        left = spent / max(1, self.done - self.first) * (self.total - self.done)
        print(f"{self.label}: {self.done}/{self.total} {self.unit} {self._info()} "
              f"| {_clock(spent)} spent, {_clock(left)} left", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
