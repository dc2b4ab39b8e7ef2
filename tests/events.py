"""What TensorBoard would show of a run, read by the format of its files: length, its sum, event, its sum."""

import io
import struct
from pathlib import Path

import numpy as np
import PIL.Image
from tensorboardX.proto import event_pb2


def read(run_folder: Path) -> dict[str, dict[int, float | np.ndarray]]:
    """Numbers and pictures by tag and step."""
    shown = {}
    for path in sorted((run_folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                is_picture = value.HasField("image")
                shown.setdefault(value.tag, {})[event.step] = np.asarray(
                    PIL.Image.open(io.BytesIO(value.image.encoded_image_string))) if is_picture else value.simple_value
            data = data[16 + length :]
    return shown
