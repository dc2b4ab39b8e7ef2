"""Pictures of figures: each beside chance and its baseline, with its 95 % interval.

A suite whose figures are of another kind draws them by itself (suites/long_context.py).
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from gemini_mini import errors

try:
    import matplotlib.figure
except ImportError:
    matplotlib = None

MODEL, BASELINE = "#3465a4", "#c8ccd4"
ROW_INCHES, WIDTH_INCHES = 0.26, 8.0


def require() -> None:
    """Raises: InputError when the package that draws is not installed."""
    if matplotlib is None:
        raise errors.InputError("charts need the package 'matplotlib', which is not installed; run: pip install 'gemini_mini[eval]'")


def bars(tasks: Mapping[str, Any]) -> Any:
    """One panel for each task: a bar for each split, with its interval, over the baseline's; a line where chance is."""
    heights = [len(task["splits"]) + 2.5 for task in tasks.values()]
    sheet = matplotlib.figure.Figure((WIDTH_INCHES, ROW_INCHES * sum(heights)), layout="constrained")
    panels = sheet.subplots(len(tasks), squeeze=False, height_ratios=heights)[:, 0]
    for panel, (name, task) in zip(panels, tasks.items()):
        cells = list(task["splits"].values())
        values, bases, chances = (np.array([cell[key] for cell in cells], float) for key in ("value", "baseline", "chance"))
        places = np.arange(len(cells))
        panel.barh(places, bases, 0.8, color=BASELINE, label=f"baseline: {task['baseline_title']}")
        panel.barh(places, values, 0.45, color=MODEL, label="model")
        for place, cell in zip(places, cells):
            if cell["low"] is not None:
                panel.plot([cell["low"], cell["high"]], [place, place], color="black", linewidth=1)
        panel.scatter(chances, places, marker="|", s=90, color="#d64545", label="chance", zorder=3)
        panel.set_yticks(places, [f"{split} (n = {cell['n']})" for split, cell in task["splits"].items()], fontsize=7)
        panel.set_xlabel(task["unit"] + (", less is better" if task["is_error"] else ""), fontsize=7)
        panel.set_xlim(left=0, right=1 if task["unit"] == "accuracy" else None)
        panel.set_title(f"{name}: {task['title']}", fontsize=9, loc="left")
        panel.tick_params(axis="x", labelsize=7)
        panel.invert_yaxis()
        panel.legend(fontsize=6, frameon=False, loc="best")
        panel.spines[["top", "right"]].set_visible(False)
    return sheet


def png(sheet: Any) -> bytes:
    """A figure as the bytes of a PNG: the same for the same figures."""
    data = io.BytesIO()
    sheet.savefig(data, format="png", dpi=150, metadata={"Software": None})
    return data.getvalue()
