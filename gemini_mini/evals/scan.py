"""Are evaluation questions in the training data? python -m gemini_mini.evals.scan RUN_OR_WORLD

    python -m gemini_mini.evals.scan runs/demo                 the rows it was trained on, code by code
    python -m gemini_mini.evals.scan data/laptop/world         the documents they are packed from, bit by bit

For every split that is held out, of every task, both halves of a test split counted:

    pair       the question with its answer is a turn of a training document: this must be 0
    media      a picture, sound or film of it is in training. Legitimate where the split holds out something else:
               a name in another language (test_lang), a pair of known colours (one_shot)
    text       its longest text, of NGRAM words or more, shares so many in a row with a training text
    near       its picture has a training picture nearer than NEAR, which is no harm in itself: emoji have look-alikes
               (the nearest are named, of a test split those of its dev half)

Distance of pictures: root mean square of the differences, in levels of 0 to 255, after both are shrunk to 8 x 8.
Facts: evaluation sets are searched for in the training data (Gemini report, section 5.1.1); 13 words: GPT-3, arXiv 2005.14165, appendix C.
"""

import argparse
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.table
from jaxtyping import Float32, UInt8

from data_prep import documents, emoji_world, pack, questions, splits, worlds
from gemini_mini import errors, files, progress, run as run_lib, stream, vocab as vocabulary
from gemini_mini.data import rows
from gemini_mini.tokenizers import bundle

NGRAM = 13
NEAR = 12.0
SHRUNK = 8
NUM_NEAREST = 5  # named for each split
Key = tuple[str, Hashable]


class Trained(NamedTuple):
    """What training documents hold."""

    turns: set[tuple[tuple[Key, ...], tuple[Key, ...]]]  # question, answer
    media: set[Key]
    ngrams: set[tuple[str, ...]]
    num_documents: int


class Found(NamedTuple):
    """How many of `n` questions have something in training."""

    n: int
    pair: int
    media: int
    text: int
    near: int


def keys(document: Iterable[stream.Part | stream.EncodedPart], tokenizers: bundle.Tokenizers | None = None) -> list[Key]:
    """A name for each part that says all there is in it: texts are themselves, everything else a hash."""
    found = []
    for part in document:
        match part:
            case stream.Role(name):
                found.append(("role", name))
            case stream.Text(text):
                found.append(("text", text))
            case stream.Pieces(ids):
                found.append(("text", tokenizers.text.decode(ids)))
            case stream.Clip(times, grids):
                found.append(("Clip", _hash([*times, *(grid.codes for grid in grids)])))
            case _:
                found.append((type(part).__name__, _hash(part)))
    return found


def read(documents_of: Iterable[list[Key]]) -> Trained:
    """Turns, media and n-grams of all documents. A later turn counts twice: after the earlier ones, and by itself."""
    found = Trained(set(), set(), set(), 0)
    for number, document in enumerate(documents_of, 1):
        for at in [i for i, key in enumerate(document) if key == ("role", "model")]:
            ends = [i for i in range(at + 1, len(document)) if document[i][0] == "role"]
            answer, asked = tuple(document[at + 1 : ends[0] if ends else None]), [i for i in range(at) if document[i] == ("role", "user")]
            found.turns.update((tuple(document[start : at + 1]), answer) for start in {0, asked[-1] if asked else 0})
        for kind, what in document:
            if kind == "text":
                found.ngrams.update(_ngrams(what))
            elif kind != "role":
                found.media.add((kind, what))
        found = found._replace(num_documents=number)
    return found


def of_world(world: emoji_world.World) -> Iterator[list[Key]]:
    """Training documents as pack.py writes them."""
    for name in documents.SOURCES:
        yield from map(keys, documents.source(world, name, pack.SEED, pack.VARIANTS.get(name, 1)))


def of_rows(stored: rows.Rows, tokenizers: bundle.Tokenizers) -> Iterator[list[Key]]:
    """Training documents as the rows hold them."""
    for packed in stored.sources.values():
        for row in packed:
            starts = np.flatnonzero(row == vocabulary.BOS)
            for ids in np.split(row, starts[1:]):
                if len(starts):
                    yield keys(stream.parse(ids, tokenizers.vocab), tokenizers)


def rows_of(settings: dict) -> list[Path]:
    """Where the rows of a run are, and of those whose weights it began with."""
    begun = settings.get("start_from")
    return [Path(settings["rows"]), *(rows_of(files.read_json(Path(begun) / "run.json")["settings"]["task"]) if begun else [])]


def scan(world: emoji_world.World, trained: Trained, tokenizers: bundle.Tokenizers | None = None) -> dict[str, dict[str, Found]]:
    """{task: {split: what was found}} of every held-out split; with tokenizers, questions are compared code by code."""
    found: dict[str, dict[str, Found]] = {}
    nearest = near_pictures(world)
    with progress.bar("scanning", len(documents.TASKS), "tasks") as bar:
        for task in documents.TASKS:
            for split in HELD_OUT:
                asked = documents.examples(world, task, split)
                if asked:
                    found.setdefault(task, {})[split] = _of(world, asked, trained, tokenizers, nearest)
            bar.advance()
    return found


def near_pictures(world: emoji_world.World) -> dict[int, tuple[float, int]]:
    """{held-out item: (distance, item)} of the training picture that looks most like it."""
    train, held = world.items_in("train"), [i for i, item in enumerate(world.items) if item.split != "train"]
    if not train:
        return {}
    small = shrink(np.asarray(world.pictures))
    found = {}
    for item in held:
        distances = np.sqrt(np.mean((small[train] - small[item]) ** 2, axis=1))
        found[item] = (float(distances.min()), train[int(distances.argmin())])
    return found


def closest(world: emoji_world.World) -> dict[str, list[dict]]:
    """{split: its pictures most like one of training}; of a test split those of the dev half alone."""
    nearest, dev = near_pictures(world), world.only("dev")
    found = {}
    for split in splits.PICTURE_SPLITS:
        items = sorted((item for item in dev.items_in(split) if item in nearest), key=nearest.get)[:NUM_NEAREST]
        if items:
            found[split] = [{"distance": round(nearest[item][0], 1), "held_out": world.items[item].names["en"],
                             "in_training": world.items[nearest[item][1]].names["en"]} for item in items]
    return found


def shrink(pictures: UInt8[np.ndarray, "n height width 3"]) -> Float32[np.ndarray, "n _"]:
    """Means of an 8 x 8 grid of patches: what is left of a picture at a glance."""
    n, height, width, _ = pictures.shape
    patches = pictures.reshape(n, SHRUNK, height // SHRUNK, SHRUNK, width // SHRUNK, 3)
    return patches.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)


HELD_OUT = ("valid", "valid_compose", "valid_speaker_language", "valid_motion", "test_concept", "test_compose", "test_lang",
            "test_speaker_language", "test_motion", "test")


def _of(
    world: emoji_world.World, asked: Sequence[questions.Example], trained: Trained, tokenizers: bundle.Tokenizers | None,
    nearest: dict[int, tuple[float, int]],
) -> Found:
    whole = [[*example.prompt, *example.answer] for example in asked]
    named = [keys(d, tokenizers) for d in (tokenizers.encode_documents(whole) if tokenizers else whole)]
    pairs = media = text = near = 0
    known = {world.pictures[item].tobytes() for item, (distance, _) in nearest.items() if distance < NEAR}
    for example, document, parts in zip(asked, named, whole, strict=True):
        at = len(example.prompt)
        pairs += (tuple(document[:at]), tuple(document[at:])) in trained.turns
        media += any(key in trained.media for key in document)
        text += any(gram in trained.ngrams for kind, what in document if kind == "text" for gram in _ngrams(what))
        near += any(isinstance(part, stream.Image) and part.pixels.tobytes() in known for part in parts)
    return Found(len(asked), pairs, media, text, near)


def held_texts(world: emoji_world.World, trained: Trained) -> dict[str, Found]:
    """Prose and code that is held out to be foreseen."""
    found = {}
    for split in ("valid", "test"):
        for name, written in (("prose", world.prose), ("code", world.code)):
            texts = [text for of, text, _ in written if of == split]
            shared = sum(any(gram in trained.ngrams for gram in _ngrams(text)) for text in texts)
            found[f"{split}: {name}"] = Found(len(texts), 0, 0, shared, 0)
    return found


def _ngrams(text: str) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return (tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1))


def _hash(arrays: Iterable[np.ndarray]) -> str:
    arrays = [np.asarray(array) for array in arrays]
    return files.hash_bytes(*(repr(array.shape).encode() + array.tobytes() for array in arrays))


def show(found: dict[str, dict[str, Found]]) -> None:
    """A table; a question that training answers is red."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("task", "split", *Found._fields):
        table.add_column(name, justify="left" if name in ("task", "split") else "right", no_wrap=True)
    for task, of in found.items():
        for place, (split, counts) in enumerate(of.items()):
            cells = [f"[red]{v}[/]" if name == "pair" and v else str(v) for name, v in counts._asdict().items()]
            table.add_row(task if place == 0 else "", split, *cells, end_section=place == len(of) - 1)
    rich.console.Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, metavar="RUN_OR_WORLD")
    parser.add_argument("--out", type=Path, help="default: scan.json in the run, or beside the world")
    args = parser.parse_args()
    folders = []
    if (args.target / "run.json").is_file():
        run = run_lib.load(args.target)
        folders, tokenizers = rows_of(run.settings["task"]), run.tokenizers
        world = worlds.embedded(folders[0].parent / "world")
        stored = [rows.load(folder / "train", tokenizers.vocab.fingerprint) for folder in folders]
        trained = read(document for each in stored for document in of_rows(each, tokenizers))
    elif (args.target / "built.json").is_file() and not (args.target / "train").is_dir():
        world, tokenizers = worlds.embedded(args.target), None
        trained = read(of_world(world))
    else:
        raise errors.InputError(f"{args.target}: must be a run, whose rows are scanned, or a world; rows alone do not say what their ids mean")
    found = scan(world, trained, tokenizers) | {"text": held_texts(world, trained)}
    named = closest(world)
    out = args.out or (args.target if tokenizers else args.target.parent) / "scan.json"
    files.write_json(out, {
        "target": str(args.target), "rows": [files.built_key(folder) for folder in folders], "documents": trained.num_documents, "ngram": NGRAM, "near": NEAR,
        "found": {task: {split: counts._asdict() for split, counts in of.items()} for task, of in found.items()}, "closest": named})
    show(found)
    for split, pairs in named.items():
        print(f"{split}: " + "; ".join(f"{p['held_out']} ~ {p['in_training']} ({p['distance']})" for p in pairs))
    print(f"{trained.num_documents:,} training documents; saved {out}")


if __name__ == "__main__":
    errors.run(main)
