"""Documents to packed rows: encode every part once, render, fit into rows, store.

    python -m data_prep.pack data/demo/world --text data/demo/text/text.model \\
        --image runs/demo-image/image.safetensors --audio runs/demo-audio/audio.safetensors --out data/demo/rows

Writes out/train (every source) and out/valid (the evaluation documents of the valid split).
"""

import argparse
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data_prep import documents, own_documents, questions, views, worlds
from gemini_mini import config, errors, files, progress, stream
from gemini_mini.data import mixture, packing, rows
from gemini_mini.tokenizers import bundle

SEED = 0
FILL = 1.05  # a long text is cut to so many more parts than rows, for its pieces are not all as short
CHUNK = 2_048  # documents in memory at once, with their sounds
VARIANTS = {"draw": 4, "name": 4, "listen": 2, "interleaved": 2, "chat": 4}  # passes in new phrasings, of what is read most often; others have one


def build(
    world_folder: Path, tokenizer_paths: tuple[Path, Path, Path], row_tokens: int, out: Path, names: Sequence[str] = (),
    varied: Sequence[str] = (),
) -> None:
    """Write out/train and out/valid, unless the same rows are there; `names` are the sources, () all.

    Training sees the pictures and sounds of the sources `varied` in other views too (views.py).
    """
    tokenizers = bundle.load(*tokenizer_paths)
    inputs = {"world": files.built_key(world_folder), "vocabulary": tokenizers.vocab.fingerprint,
              "row_tokens": row_tokens, "sources": sorted(names), "varied": sorted(varied), "passes": VARIANTS,
              "code": files.code_hash(documents, *documents.MODULES, own_documents, packing, rows, stream, views),
              "packer": files.hash_bytes(Path(__file__).read_bytes())}

    def make(folder: Path) -> None:
        reader, world = worlds.load(world_folder)
        known = {}  # codes by content: many sources show the same pictures and sounds
        wanted = names or tuple(reader.SOURCES)
        if unknown := set(varied) - set(wanted):
            raise errors.InputError(f"--views must be some of the sources that are packed, {sorted(wanted)}, got {sorted(unknown)}")
        train = {name: reader.source(world, name, SEED, VARIANTS.get(name, 1)) for name in wanted}
        train |= {name: views.varied(train[name], questions.rng_of(f"views {name}", SEED, 0)) for name in varied}
        valid = reader.valid(world, wanted)
        with progress.bar("packing", len(train) + len(valid), "sources") as bar:
            for split, sources in (("train", train), ("valid", valid)):
                rendered = {}
                for name, docs in sources.items():
                    rendered[name], too_long = render(docs, tokenizers, row_tokens, known)
                    if too_long:
                        print(f"  {name}: {too_long} documents are left out, for they do not fit a row of {row_tokens} ids "
                              "(--row-tokens, and the config's context_tokens)")
                    bar.advance(source=name)
                (folder / split).mkdir()
                rows.write(folder / split, rendered, row_tokens, tokenizers.vocab.fingerprint)
        for name, info in files.read_json(folder / "train" / "rows.json")["sources"].items():
            fill = info["ids"] / max(1, info["rows"] * row_tokens)
            print(f"  {name:12} {info['documents']:6} documents {info['ids']:9,} ids {info['rows']:5} rows, {fill:.0%} full")

    files.build(out, inputs, make)


def render(
    docs: Iterable[stream.Document], tokenizers: bundle.Tokenizers, row_tokens: int, known: dict
) -> tuple[list[np.ndarray], int]:
    """Ids of each document that fits a row, and how many do not; a plain text too long becomes several.

    Only CHUNK documents are held at a time; `known` is that of encode_documents.
    """
    out, too_long, docs = [], 0, iter(docs)
    while chunk := list(itertools.islice(docs, CHUNK)):
        for document, parts in zip(chunk, tokenizers.encode_documents(chunk, known), strict=True):
            rendered = stream.render(parts, tokenizers.vocab)
            match document:
                case [stream.Text(text)] if len(rendered) > row_tokens and len(text.strip()) > 1:
                    parts = -(-len(rendered) * FILL // row_tokens)
                    pieces = render([[stream.Text(piece)] for piece in cut(text, min(int(parts), len(text)))], tokenizers, row_tokens, known)
                    out += pieces[0]
                    too_long += pieces[1]
                case _ if len(rendered) > row_tokens:
                    too_long += 1
                case _:
                    out.append(rendered)
    return out, too_long


def cut(text: str, parts: int) -> list[str]:
    """As many like parts, each cut after the line that ends nearest, within half a part, or else after a space, or there."""
    found, start = [], 0
    for left in range(parts, 1, -1):
        size = (len(text) - start) // left
        where, first, last = start + size, start + (size + 1) // 2, min(start + size + size // 2, len(text) - left)
        for mark in "\n ":
            near = [i for i in (text.rfind(mark, first, where), text.find(mark, where, last + 1)) if i >= 0 and text[start:i].strip()]
            if near:
                where = min(near, key=lambda i: abs(i - where)) + 1
                break
        found.append(text[start:where])
        start = where
    return [*found, text[start:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    for kind in ("text", "image", "audio"):
        parser.add_argument(f"--{kind}", type=Path, required=True, help=f"the {kind} tokenizer's file")
    parser.add_argument("--config", help="of the decoder: only what its stages read is packed; default: every source")
    parser.add_argument("--views", nargs="*", default=(), metavar="SOURCE", help="whose pictures and sounds are shown in other views too")
    parser.add_argument("--row-tokens", type=int, default=448)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    names = mixture.shares(config.load(args.config, []).task.stages) if args.config else ()
    build(args.world, (args.text, args.image, args.audio), args.row_tokens, args.out, tuple(names), args.views)


if __name__ == "__main__":
    errors.run(main)
