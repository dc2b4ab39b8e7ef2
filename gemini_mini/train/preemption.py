"""A notice to stop: SIGTERM before a VM is taken away, or Ctrl-C. The step is finished and saved first."""

import signal
import threading


class Notice:
    """`with Notice() as notice`: the first signal only sets `notice.signal`, a second one acts as ever."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> "Notice":
        is_main = threading.current_thread() is threading.main_thread()  # no other may handle signals
        self.before = {number: signal.signal(number, self._take) for number in self.SIGNALS} if is_main else {}
        return self

    def _take(self, number: int, frame: object) -> None:
        self.signal = number
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
