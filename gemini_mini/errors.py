"""Errors a user can act on: one sentence, no traceback.

An `InputError` says where, what must hold, what was got and what to do: exit code BAD_INPUT, and to start again
changes nothing. So does a path that leads through a file as if it were a folder, or the reverse, whoever meets it.
A full disk or a lost file is the machine's: MACHINE_FAILED, and to start again may help.
Anything else that escapes is a bug of ours and keeps its traceback.
"""

import os
import signal
import sys
from collections.abc import Callable

BAD_INPUT, MACHINE_FAILED = 2, 74  # as argparse ends, and as EX_IOERR of sysexits.h
MISTYPED = NotADirectoryError, IsADirectoryError, FileExistsError


class InputError(ValueError):
    """Something the user handed in cannot be used."""


def end_quietly() -> None:
    """Until `run`, Ctrl-C ends the program and says nothing, where it is not to be ignored: for what a command imports."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(main: Callable[[], None], stopped: str = "stopped; run the same command again to continue") -> None:
    """Run a command; turn bad input and failing disks into one line and their exit codes, and Ctrl-C into `stopped`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except MISTYPED as error:
        print(f"error: {error.filename}: a file stands where a folder must be, or the reverse; check the path", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None
    except BrokenPipeError:  # as `| head` does; without another standard output Python would say so at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + 13) from None
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(BAD_INPUT if isinstance(error, InputError) else MACHINE_FAILED) from None
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        raise SystemExit(130) from None
