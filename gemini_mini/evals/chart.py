"""Pictures of figures: each beside chance and its baseline, with its 95 % interval."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from gemini_mini import errors

try:
    import matplotlib.figure
except ImportError:
    matplotlib = None

MODEL, BASELINE, CHANCE = "#3465a4", "#c8ccd4", "#d64545"
ROW_INCHES, MAP_INCHES, WIDTH_INCHES = 0.26, 2.4, 9.0


def require() -> None:
    """Raises: InputError when the package that draws is not installed."""
    if matplotlib is None:
        raise errors.InputError("charts need the package 'matplotlib', which is not installed; run: pip install 'gemini_mini[eval]'")


def draw(tasks: Mapping[str, Any]) -> Any:
    """One panel for each task, as a figure of matplotlib: bars, a line along one axis, or a map over two."""
    heights = [MAP_INCHES if task["axes"] else ROW_INCHES * (len(task["splits"]) + 2.5) for task in tasks.values()]
    sheet = matplotlib.figure.Figure((WIDTH_INCHES, sum(heights)), layout="constrained")
    for panel, (name, task) in zip(sheet.subplots(len(tasks), squeeze=False, height_ratios=heights)[:, 0], tasks.items()):
        (_bars, _line, _map)[len(task["axes"])](panel, task)
        panel.set_title(f"{name}: {task['title']}", fontsize=9, loc="left")
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return sheet


def png(sheet: Any) -> bytes:
    """A figure as the bytes of a PNG: the same for the same figures."""
    data = io.BytesIO()
    sheet.savefig(data, format="png", dpi=150, metadata={"Software": None})
    return data.getvalue()


def _bars(panel: Any, task: Mapping[str, Any]) -> None:
    """A bar for each split, with its interval, over the baseline's; a mark where chance is."""
    cells = list(task["splits"].values())
    values, bases, chances = (np.array([cell[key] for cell in cells], float) for key in ("value", "baseline", "chance"))
    places = np.arange(len(cells))
    panel.barh(places, bases, 0.8, color=BASELINE, label=f"baseline: {task['baseline_title']}")
    panel.barh(places, values, 0.45, color=MODEL, label="model")
    for place, cell in zip(places, cells):
        if cell["low"] is not None:
            panel.plot([cell["low"], cell["high"]], [place, place], color="black", linewidth=1)
    panel.scatter(chances, places, marker="|", s=90, color=CHANCE, label="chance", zorder=3)
    panel.set_yticks(places, [f"{split} (n = {cell['n']})" for split, cell in task["splits"].items()])
    panel.set_xlabel(task["unit"] + (", less is better" if task["is_error"] else ""), fontsize=7)
    panel.set_xlim(left=0, right=1 if task["unit"] == "accuracy" else None)
    panel.invert_yaxis()
    panel.legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _line(panel: Any, task: Mapping[str, Any]) -> None:
    """Figures with their intervals along one of their values."""
    (axis,) = task["axes"]
    cells = sorted(task["splits"].values(), key=lambda cell: cell[axis])
    places, values, bases, chances, lows, highs = (
        [cell[key] for cell in cells] for key in (axis, "value", "baseline", "chance", "low", "high"))
    panel.plot(places, chances, color=CHANCE, linewidth=1, linestyle=":", label="chance")
    panel.plot(places, bases, color=BASELINE, marker="o", markersize=3, label=f"baseline: {task['baseline_title']}")
    panel.plot(places, values, color=MODEL, marker="o", markersize=3, label="model")
    panel.fill_between(places, lows, highs, color=MODEL, alpha=0.15, label="95 %")
    panel.set_xlabel(axis, fontsize=7)
    panel.set_ylabel(task["unit"], fontsize=7)
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _map(panel: Any, task: Mapping[str, Any]) -> None:
    """Cells as colours and figures over two of their values."""
    cells = list(task["splits"].values())
    columns, rows = (sorted({cell[axis] for cell in cells}) for axis in task["axes"])
    grid = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        row, column = rows.index(cell[task["axes"][1]]), columns.index(cell[task["axes"][0]])
        grid[row, column] = cell["value"]
        panel.text(column, row, f"{cell['value']:.0%}, n {cell['n']}", ha="center", va="center", fontsize=6)
    panel.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    panel.set_xticks(range(len(columns)), columns)
    panel.set_yticks(range(len(rows)), rows)
    chance, baseline = (np.mean([cell[key] for cell in cells]) for key in ("chance", "baseline"))
    panel.set_xlabel(f"{task['axes'][0]}   (in all, chance: {chance:.0%}; {task['baseline_title']}: {baseline:.0%})", fontsize=7)
    panel.set_ylabel(task["axes"][1], fontsize=7)
