"""Which world a folder holds, and the module that turns it into documents.

Both modules offer SOURCES, source(world, name, seed, variants), valid(world) and text_sample(world, shares, seed).
"""

from pathlib import Path
from types import ModuleType

from data_prep import documents, emoji_world, own, own_documents
from gemini_mini import errors


def load(folder: str | Path) -> tuple[ModuleType, emoji_world.World | own.World]:
    """Raises: InputError when the folder holds no finished world."""
    if own.is_own(folder):
        return own_documents, own.load(folder)
    return documents, emoji_world.load(folder)


def embedded(folder: str | Path) -> emoji_world.World:
    """The embedded world. Raises: InputError where the folder holds own data, or nothing finished."""
    if own.is_own(folder):
        raise errors.InputError(f"{folder}: is own data, which has no questions to score; the run's metrics.jsonl has its "
                                "losses on valid, and sample.py its answers")
    return emoji_world.load(folder)
