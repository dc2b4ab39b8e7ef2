"""What a card is made of, on a terminal and on a page, and what cards share.

Next: text.py, image.py, audio.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.table
from jaxtyping import Int

from gemini_mini.decode import page


class Table(NamedTuple):
    """Rows of plain text under a header; the first column is a name."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Card(NamedTuple):
    """One tokenizer. `figures` are (title, HTML) for the page alone."""

    title: str
    facts: Sequence[tuple[str, str]]  # (value, what it is)
    tables: Sequence[Table]
    figures: Sequence[tuple[str, str]]


def show(card: Card) -> None:
    """Print facts and tables."""
    console = rich.console.Console()
    console.print(f"\n[bold]{card.title}[/bold]")
    console.print("\n".join(f"  {value:>12}  {what}" for value, what in card.facts), highlight=False, markup=False)
    for table in card.tables:
        shown = rich.table.Table(title=table.title, title_justify="left", box=rich.box.SIMPLE)
        for place, name in enumerate(table.header):
            shown.add_column(name, justify="right" if place else "left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


def html(card: Card) -> str:
    """The same and the figures, as a section of a page."""
    facts = "".join(f"<div><b>{page.escape(value)}</b><span>{page.escape(what)}</span></div>" for value, what in card.facts)
    parts = [f'<div class="facts">{facts}</div>']
    for table in card.tables:
        cells = [[page.escape(cell) for cell in row] for row in table.rows]
        parts.append(f'<h3>{page.escape(table.title)}</h3><div class="scroll">{page.table(cells, table.header)}</div>')
    parts += [f"<h3>{page.escape(title)}</h3>{content}" for title, content in card.figures]
    return "".join(parts)


def perplexity(counts: Int[np.ndarray, "V"]) -> float:
    """How many codes, used equally often, would be as hard to guess: 2 to the entropy in bits."""
    shares = counts[counts > 0] / counts.sum()
    return float(2 ** -(shares * np.log2(shares)).sum())


def usage_chart(counts: Int[np.ndarray, "V"], unit: str) -> str:
    """How often each code occurs, most frequent first, on a logarithmic scale; unused codes stay empty."""
    width, height, left, bottom = 640, 170, 56, 22
    ordered = np.sort(counts)[::-1]
    decades = int(np.ceil(np.log10(max(10, ordered[0]))))
    heights = np.where(ordered > 0, np.log10(np.maximum(ordered, 1)) + 0.15, 0) / (decades + 0.15)
    step, room = (width - left - 8) / len(ordered), height - bottom - 10
    bars = "".join(f"M{left + i * step:.2f} {height - bottom}v{-room * h:.1f}h{step:.2f}V{height - bottom}z"
                   for i, h in enumerate(heights) if h)
    grid = ""
    for decade in range(decades + 1):
        y = height - bottom - room * (decade + 0.15) / (decades + 0.15)
        grid += (f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
                 f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10**decade:,}</text>')
    used = np.count_nonzero(ordered)
    return (f'<svg class="chart" style="max-width:{width}px" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="how often each code is used">{grid}<path d="{bars}" fill="var(--strong)"/>'
            f'<text x="{left}" y="{height - 6}">{used} of {len(ordered)} used, most frequent first, '
            f"times in {int(ordered.sum()):,} {page.escape(unit)}</text></svg>")
