"""Documents to packed rows: encode every part once, render, fit into rows, store.

    python -m data_prep.pack data/demo/world --text data/demo/text/text.model \\
        --image runs/demo-image/image.safetensors --audio runs/demo-audio/audio.safetensors --out data/demo/rows

Writes out/train (every source) and out/valid (the evaluation documents of the valid split).
"""

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_prep import documents, emoji_world, phrases
from gemini_mini import errors, files, progress, stream
from gemini_mini.data import rows
from gemini_mini.tokenizers import bundle

SEED = 0
CHUNK = 2_048  # documents in memory at once, with their sounds
VARIANTS = {"draw": 4, "name": 4}  # passes in new phrasings, of what is read most often; others have one


def build(world_folder: Path, tokenizer_paths: tuple[Path, Path, Path], row_tokens: int, out: Path) -> None:
    """Write out/train and out/valid, unless the same rows are there."""
    tokenizers = bundle.load(*tokenizer_paths)
    inputs = {"world": files.built_key(world_folder), "vocabulary": tokenizers.vocab.fingerprint,
              "row_tokens": row_tokens, "code": files.code_hash(documents, phrases, rows, stream)}

    def make(folder: Path) -> None:
        world = emoji_world.load(world_folder)
        known = {}  # codes by content: many sources show the same pictures and sounds
        train = {name: documents.source(world, name, SEED, VARIANTS.get(name, 1)) for name in documents.SOURCES}
        valid = {task: [e.prompt + e.answer for e in documents.examples(world, task, "valid")] for task in documents.TASKS}
        with progress.bar("packing", len(train) + len(valid), "sources") as bar:
            for split, sources in (("train", train), ("valid", valid)):
                rendered = {}
                for name, docs in sources.items():
                    rendered[name] = render(docs, tokenizers, row_tokens, known)
                    bar.advance(source=name)
                (folder / split).mkdir()
                kept = {name: docs for name, docs in rendered.items() if docs}
                rows.write(folder / split, kept, row_tokens, tokenizers.vocab.fingerprint)
        for name, info in files.read_json(folder / "train" / "rows.json")["sources"].items():
            fill = info["ids"] / (info["rows"] * row_tokens)
            print(f"  {name:12} {info['documents']:6} documents {info['ids']:9,} ids {info['rows']:5} rows, {fill:.0%} full")

    files.build(out, inputs, make)


def render(
    docs: Iterable[stream.Document], tokenizers: bundle.Tokenizers, row_tokens: int, known: dict
) -> list[np.ndarray]:
    """Ids of each document; a plain text too long for a row becomes two, cut at a line near its middle.

    Only CHUNK documents are held at a time; `known` is that of encode_documents.
    """
    out, docs = [], iter(docs)
    while chunk := list(itertools.islice(docs, CHUNK)):
        for document, parts in zip(chunk, tokenizers.encode_documents(chunk, known), strict=True):
            rendered = stream.render(parts, tokenizers.vocab)
            match document:
                case [stream.Text(text)] if len(rendered) > row_tokens and "\n" in text.strip():
                    cut = min((i for i, c in enumerate(text) if c == "\n"), key=lambda i: abs(i - len(text) // 2)) + 1
                    halves = [[stream.Text(half)] for half in (text[:cut], text[cut:]) if half]
                    out += render(halves, tokenizers, row_tokens, known)
                case _:
                    out.append(rendered)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    for kind in ("text", "image", "audio"):
        parser.add_argument(f"--{kind}", type=Path, required=True, help=f"the {kind} tokenizer's file")
    parser.add_argument("--row-tokens", type=int, default=448)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    build(args.world, (args.text, args.image, args.audio), args.row_tokens, args.out)


if __name__ == "__main__":
    errors.run(main)
