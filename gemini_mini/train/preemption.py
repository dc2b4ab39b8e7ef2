"""A notice to stop: SIGTERM before a VM is taken away, or Ctrl-C. The step is finished and saved first, and nothing else is."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils


class Told(BaseException):
    """The notice, where it comes in the middle of work that is not to be finished; no handler of errors takes it for one."""


class Notice:
    """`with Notice() as notice`: the first signal only sets `notice.signal`, a second one acts as ever."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: int | None = None
        self.is_in_the_way = False  # of what runs now

    def __enter__(self) -> "Notice":
        is_main = threading.current_thread() is threading.main_thread()  # no other may handle signals
        is_alone = jax.process_count() == 1  # several agree on a step by JAX's own handler of SIGTERM
        heard = [number for number in self.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # Ctrl-C is for others, behind `&`
        self.before = {number: signal.signal(number, self._take) for number in heard} if is_main and is_alone else {}
        return self

    def at(self, step: int) -> int | None:
        """The signal to stop for after this step, the same one in every process."""
        if jax.process_count() > 1:
            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
        return self.signal

    def unless_told(self, work: Callable[[], Any]) -> Any:
        """What `work`, which must change nothing, gives; None where a signal comes first: then it is left where it is.

        Several processes agree on a step, and none of them can leave work that all do: there it is finished.
        """
        try:
            self.is_in_the_way = True  # before the look at the signal: one that comes in between is not lost
            return None if self.signal else work()
        except Told:
            return None
        finally:
            self.is_in_the_way = False

    def _take(self, number: int, frame: object) -> None:
        self.signal = number
        self.__exit__()
        if self.is_in_the_way:
            self.is_in_the_way = False
            raise Told

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
