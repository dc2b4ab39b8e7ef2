"""A run that does not recover by itself goes back to its last checkpoint and on with other data.

    RUN/rollbacks.json    [{"at": 130, "to": 100, "why": "..."}]: the batches of steps 100 to 129 are never read again

Going back alone would meet the same batches and end in the same place: everything here is exact. So
the data of the steps in between is left out, as in PaLM (arXiv 2204.02311, section 5.1), and the run is a function
of its settings and this file.
"""

import sys
from pathlib import Path

from gemini_mini import errors, files

TRIES = 3  # from one checkpoint


class Diverged(Exception):
    """So many bad steps in a row that the weights themselves are to blame."""

    def __init__(self, step: int, why: str):
        super().__init__(why)
        self.step, self.why = step, why


class Rollbacks:
    """What a run has gone back from."""

    def __init__(self, folder: Path):
        self.path = folder / "rollbacks.json"
        self.all: list[dict] = files.read_json(self.path) if self.path.is_file() else []

    def batch_of(self, step: int) -> int:
        """The number of the batch that step reads."""
        return step + sum(r["at"] - r["to"] for r in self.all if step >= r["to"])

    def add(self, diverged: Diverged, to: int) -> None:
        """Go back to step `to`. Raises: InputError when that was tried often enough."""
        if sum(r["to"] == to for r in self.all) == TRIES:
            raise errors.InputError(f"{self.path.parent}: went back to step {to} {TRIES} times and {diverged.why} again; "
                                    "train with a lower optim.lr, or look at the data")
        self.all.append({"at": diverged.step, "to": to, "why": diverged.why})
        files.write_json(self.path, self.all)
        print(f"warning: {self.path.parent}: {diverged.why}; back to step {to}, and past the data of the "
              f"{diverged.step - to} steps since", file=sys.stderr)
