"""Prose and code without a download: Python's own reference, docstrings and library.

They change with the Python version, so their hash belongs into what is built from them.
"""

import ast
import pydoc_data.topics
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep import splits

CHUNK_CHARS = 700
"""Documents are cut at blank lines into pieces of about this size, to fit a short row."""
VALID_PERCENT = 3
TEST_BUCKETS = range(94, 97)
"""Of 100. Documents are few, and some are long: with these, both halves of test hold prose and code in the demo's world too."""

# Large tables and generated files teach nothing.
SKIPPED = {"this", "antigravity", "pydoc_data", "encodings", "idlelib", "lib2to3", "test"}


class Passage(NamedTuple):
    """A piece of a document."""

    split: str  # "train", "valid" or "test"
    text: str
    document: str  # its name alone decides the split, and the half of test


def prose(max_chars: int) -> list[Passage]:
    """The language reference and the docstrings of the library, up to `max_chars`."""
    topics = [(f"topic {name}", text) for name, text in sorted(pydoc_data.topics.topics.items())]
    docs, total = [], 0
    for name, source in _library():
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                doc = ast.get_docstring(node)
                if doc and len(doc) > 80:
                    docs.append((f"code {name}", doc))  # in the split and the half where its code stands
                    total += len(doc)
        if total > max_chars:
            break
    return _cut(_interleave(topics, docs), max_chars)


def code(max_chars: int) -> list[Passage]:
    """The source of the standard library, up to `max_chars`."""
    return _cut(((f"code {name}", source) for name, source in _library()), max_chars)


def python_version() -> str:
    return sys.version.split()[0]


def chunks(text: str, limit: int = CHUNK_CHARS) -> list[str]:
    """Cut at blank lines into pieces of at most `limit` characters; a longer block is cut at lines."""
    pieces, piece = [], ""
    for block in text.strip("\n").split("\n\n"):
        for part in [block] if len(block) <= limit else _lines(block, limit):
            if piece and len(piece) + 2 + len(part) > limit:
                pieces.append(piece)
                piece = part
            else:
                piece = f"{piece}\n\n{part}" if piece else part
    return [p for p in [*pieces, piece] if p.strip()]


def _lines(block: str, limit: int) -> list[str]:
    parts, part = [], ""
    for line in block.split("\n"):
        if part and len(part) + 1 + len(line) > limit:
            parts.append(part)
            part = line[:limit]
        else:
            part = f"{part}\n{line[:limit]}" if part else line[:limit]
    return [*parts, part]


def _library() -> Iterator[tuple[str, str]]:
    """(module, source) of the top-level modules and packages of the standard library.

    In an order of chance, the same each time: in the alphabet's, a small sample would be all of "a".
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = [name for name in sys.stdlib_module_names if name not in SKIPPED and not name.startswith("_")]
    for name in sorted(names, key=lambda name: splits.bucket(f"order {name}", 1 << 62)):
        path = next((p for p in (root / f"{name}.py", root / name / "__init__.py") if p.is_file()), None)
        if path:
            yield name, path.read_text(encoding="utf-8", errors="replace")


def _interleave(first: list, second: list) -> list:
    """Two lists merged evenly."""
    placed = [((i + 0.5) / len(items), side, item) for side, items in enumerate((first, second))
              for i, item in enumerate(items)]
    return [item for _, _, item in sorted(placed, key=lambda p: p[:2])]


def _cut(documents: Iterable[tuple[str, str]], max_chars: int) -> list[Passage]:
    made, total = [], 0
    for name, document in documents:
        chance = splits.bucket(name)
        split = "valid" if chance < VALID_PERCENT else "test" if chance in TEST_BUCKETS else "train"
        for piece in chunks(document):
            if total + len(piece) > max_chars:
                return made
            made.append(Passage(split, piece, name))
            total += len(piece)
    return made
