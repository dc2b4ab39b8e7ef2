"""The first pictures a model drew for words, right and wrong, as one PNG for its card.

    thing never seen                        a split and how many of its questions were answered rightly
    [picture]    [picture]    ...           in the order of the questions, so nothing is picked; wrong ones are framed red
    red heart    teapot

Only pictures that the model drew: none of the data is shown.
"""

import io
import textwrap
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from gemini_mini.evals import album as album_lib, task

ROWS = {"seen": 3, "test_compose": 1, "test_concept": 1}  # whose questions are English
TITLES = {"seen": "things it has seen", "test_compose": "new combinations of known parts", "test_concept": "things it has never seen"}
COLUMNS, SIDE, CELL, TITLE, WIDTH_CHARS, MOST_LINES = 10, 72, (96, 112), 22, 15, 2
WRONG, INK = (200, 30, 30), (40, 40, 40)


def sheet(found: Mapping[str, Any], album: album_lib.Album) -> bytes:
    """A PNG of what an evaluation's task `draw` found, splits that it lacks left out; empty bytes where it has none of them."""
    shown = {split: found["splits"][split] for split in ROWS if split in found["splits"]}
    if not shown:
        return b""
    height = sum(TITLE + CELL[1] * ROWS[split] for split in shown)
    page = Image.new("RGB", (COLUMNS * CELL[0], height), (255, 255, 255))
    pen, font, top = ImageDraw.Draw(page), ImageFont.load_default(10), 0
    for split, cell in shown.items():
        pen.text((4, top + 4), f"{TITLES[split]}: {cell['value']:.0%} of {cell['n']} right", fill=INK, font=ImageFont.load_default(13))
        top += TITLE
        for number, example in enumerate(cell["examples"][: COLUMNS * ROWS[split]]):
            left, at = number % COLUMNS * CELL[0] + 4, top + number // COLUMNS * CELL[1]
            for pixels in task.images(album.document(example["answer"]))[:1]:
                page.paste(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST), (left + 2, at + 2))
            if not example["is_right"]:
                pen.rectangle((left, at, left + SIDE + 3, at + SIDE + 3), outline=WRONG, width=2)
            asked = task.words(album.document(example["prompt"])).partition(": ")[2]
            lines = textwrap.wrap(asked, WIDTH_CHARS, max_lines=MOST_LINES, placeholder="…")
            pen.multiline_text((left, at + SIDE + 6), "\n".join(lines), fill=INK, font=font, spacing=2)
        top += CELL[1] * ROWS[split]
    data = io.BytesIO()
    page.quantize(dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    return data.getvalue()
