"""Where figures go: one JSON line a record, TensorBoard beside it.

After a resume the records past the checkpoint are dropped, so an interrupted run leaves the
same file as an uninterrupted one (figures of speed apart).
"""

import json
import time
from pathlib import Path

import numpy as np

from gemini_mini import files


class Writer:
    """Appends to RUN/metrics.jsonl and RUN/tensorboard."""

    def __init__(self, folder: Path, start_step: int):
        from tensorboardX import event_file_writer  # 0.4 s that sampling never pays

        self.path = folder / "metrics.jsonl"
        kept = [line for line in read(folder) if line["step"] <= start_step]
        files.write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.file = open(self.path, "a")
        (folder / "tensorboard").mkdir(exist_ok=True)
        # Files are named by the second alone: one begun in the same second would take the other's place. Written by this thread:
        # that of SummaryWriter dies of a full disk without a word, and then nobody empties the queue that training waits for.
        self.board = event_file_writer.EventsWriter(str(folder / "tensorboard" / "events"), f".{start_step}")
        self._show(start_step + 1, session_log={"status": 1})  # START: what other files say of this step and later ones is void

    def write(self, step: int, values: dict[str, float | np.ndarray]) -> None:
        """Numbers go to both; pictures (uint8 [height, width, 3]) to TensorBoard alone."""
        self.file.write(json.dumps(_record(step, values)) + "\n")
        self.file.flush()
        from tensorboardX import summary

        shown = [summary.scalar(name, float(value)) if np.ndim(value) == 0 else summary.image(name, value, dataformats="HWC")
                 for name, value in values.items()]
        self._show(step, summary={"value": [value for each in shown for value in each.value]})

    def _show(self, step: int, **what) -> None:
        from tensorboardX.proto import event_pb2

        self.board.write_event(event_pb2.Event(wall_time=time.time(), step=step, **what))
        self.board.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()


def _record(step: int, values: dict[str, float | np.ndarray]) -> dict[str, float | int]:
    return {"step": step, **{name: float(value) for name, value in values.items() if np.ndim(value) == 0}}


def has(folder: Path, step: int, values: dict[str, float | np.ndarray]) -> bool:
    """Whether just these figures of this step are written down already."""
    return _record(step, values) in read(folder)


def read(folder: Path) -> list[dict[str, float | int]]:
    """The records of a run so far; a line cut short by a kill is left out."""
    records = []
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
