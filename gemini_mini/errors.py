"""Errors a user can act on: one sentence, exit code 2, no traceback.

An `InputError` says where, what must hold, what was got and what to do. Anything else that
escapes is a bug of ours and keeps its traceback.
"""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something the user handed in cannot be used."""


def run(main: Callable[[], None]) -> None:
    """Run a command; turn bad input and failing disks into one line and exit code 2."""
    try:
        main()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None
