"""Other views of what a document shows, so that a name is learned for the thing and not for its pixels, or one voice.

    picture  turned, sized and moved a little, on white
    sound    played faster or slower, which makes its voice higher or lower too

Only training sees them, and only where the model is asked about what it sees or hears: what it draws stays as it is.
Paper: speed perturbation, Ko et al. 2015, "Audio Augmentation for Speech Recognition" (Interspeech).
Next: pack.py.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image
from scipy import signal

from data_prep import pictures
from gemini_mini import stream

SHARE = 0.6  # of the documents; the others are as they are in evaluation
MOST_TURN, SMALLEST, LARGEST, MOST_MOVE = np.deg2rad(12), 0.78, 1.13, 0.09  # radians, times the size, of the side
SPEEDS, OF = (17, 23), 20  # the slowest and the fastest, in twentieths of the recorded speed


def varied(documents: Iterable[stream.Document], rng: np.random.Generator) -> Iterator[stream.Document]:
    """Most of the documents with another view of every picture and sound that the user shows."""
    for document in documents:
        yield _seen_otherwise(document, rng) if rng.random() < SHARE else document


def _seen_otherwise(document: stream.Document, rng: np.random.Generator) -> stream.Document:
    made, speaker = [], ""
    for part in document:
        speaker = part.name if isinstance(part, stream.Role) else speaker
        made.append(_another(part, rng) if speaker == "user" else part)
    return made


def _another(part: stream.Part, rng: np.random.Generator) -> stream.Part:
    match part:
        case stream.Image(pixels):
            turn, size = rng.uniform(-MOST_TURN, MOST_TURN), np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
            return stream.Image(moved(pixels, turn, size, *rng.uniform(-MOST_MOVE, MOST_MOVE, 2)))
        case stream.Audio(samples):
            return stream.Audio(faster(samples, int(rng.integers(SPEEDS[0], SPEEDS[1] + 1))))
    return part


def moved(pixels: np.ndarray, turn: float, size: float, down: float, right: float) -> np.ndarray:
    """A picture turned by `turn` radians about its middle, `size` times as large, then moved by shares of its sides."""
    height, width = pixels.shape[:2]
    cos, sin = np.cos(turn) / size, np.sin(turn) / size
    middle = np.array([width / 2, height / 2])
    from_there = np.array([[cos, sin], [-sin, cos]])  # where each point of the result was before
    start = middle - from_there @ (middle + [right * width, down * height])
    how = (*from_there[0], start[0], *from_there[1], start[1])
    made = Image.fromarray(pixels).transform((width, height), Image.Transform.AFFINE, how, Image.Resampling.BICUBIC,
                                             fillcolor=pictures.BACKGROUND)
    return np.asarray(made)


def faster(samples: np.ndarray, speed: int) -> np.ndarray:
    """Samples played at `speed` twentieths of their speed."""
    return signal.resample_poly(samples, OF, speed).astype(np.float32)
