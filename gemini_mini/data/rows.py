"""Packed rows on disk: one memory-mapped array per source, a checksum and the vocabulary.

    rows/rows.json     fingerprint, row length, and per source: rows, documents, ids, checksum
    rows/<source>.npy  int32 [rows, row_tokens]
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from gemini_mini import errors, files, vocab as vocabulary
from gemini_mini.data import packing


class Rows(NamedTuple):
    """Stored rows by source, and the vocabulary they are written in."""

    fingerprint: str
    row_tokens: int
    sources: dict[str, Int32[np.ndarray, "R T"]]


def write(folder: Path, documents: dict[str, list[Int32[np.ndarray, "_"]]], row_tokens: int, fingerprint: str) -> None:
    """Pack each source's documents and write them; `folder` is the one `files.build` made."""
    sources = {}
    for name, docs in documents.items():
        rows = packing.pack(docs, row_tokens)
        np.save(folder / f"{name}.npy", rows)
        sources[name] = {"rows": len(rows), "documents": len(docs), "ids": int(sum(map(len, docs))),
                         "checksum": files.hash_bytes(rows.tobytes())}
    files.write_json(folder / "rows.json", {"fingerprint": fingerprint, "row_tokens": row_tokens, "sources": sources})


def load(folder: str | Path, fingerprint: str) -> Rows:
    """Map the rows. Raises: InputError on damage or when made with another vocabulary."""
    folder = Path(folder)
    meta = files.read_json(folder / "rows.json")
    vocabulary.check(fingerprint, meta["fingerprint"], str(folder))
    sources = {}
    for name, info in meta["sources"].items():
        path = folder / f"{name}.npy"
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise errors.InputError(f"{path}: cannot be read ({error}); pack the rows again") from None
        if files.hash_bytes(rows.tobytes()) != info["checksum"]:
            raise errors.InputError(f"{path}: the checksum differs from rows.json; pack the rows again")
        sources[name] = rows
    return Rows(meta["fingerprint"], meta["row_tokens"], sources)
