"""Failures to look at: the first wrong answers of each task that shows or draws pictures, one row each.

    what was asked | what is right | what was answered        pictures as they are, words below them

In the fixed order of the questions, splits taking turns, so nothing is picked. Letters that DejaVu lacks, such as Chinese, show as boxes.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gemini_mini import stream
from gemini_mini.evals import album as album_lib, chart, task

ROWS_PER_TASK, SIDE, COLUMN, MOST_PICTURES, MOST_CHARS = 6, 64, 280, 4, 44


def sheet(tasks: Mapping[str, Any], album: album_lib.Album, rows_per_task: int = ROWS_PER_TASK) -> bytes:
    """All rows as a PNG; empty bytes where nothing with pictures failed."""
    chart.require()
    rows = []
    for name, found in tasks.items():
        seen = [(split, [album.document(example[key]) for key in ("prompt", "truth", "answer")]) for split, example in task.wrong(found)]
        shown = [row for row in seen if any(_pictures(document) for document in row[1])][:rows_per_task]
        rows += [_row(f"{name}, {split}", documents) for split, documents in shown]
    if not rows:
        return b""
    data = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(data, "PNG")
    return data.getvalue()


def _row(title: str, documents: list[stream.Document]) -> np.ndarray:
    page = Image.new("RGB", (3 * COLUMN, SIDE + 44), (255, 255, 255))
    pen, font = ImageDraw.Draw(page), ImageFont.truetype(f"{chart.matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 11)
    pen.text((4, 2), title, fill=(160, 0, 0), font=font)
    for column, document in enumerate(documents):
        left = column * COLUMN + 4
        for place, pixels in enumerate(_pictures(document)[:MOST_PICTURES]):
            page.paste(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST), (left + place * (SIDE + 4), 16))
        said = task.words(document).replace("\n", " ")
        pen.text((left, SIDE + 20), said if len(said) <= MOST_CHARS else f"{said[:MOST_CHARS]}...", fill=(0, 0, 0), font=font)
    return np.asarray(page)


def _pictures(document: stream.Document) -> list[np.ndarray]:
    """Pictures, and the first and last frame of clips."""
    films = [frame for part in document if isinstance(part, stream.Video) for frame in (part.frames[0], part.frames[-1])]
    return task.images(document) + films
