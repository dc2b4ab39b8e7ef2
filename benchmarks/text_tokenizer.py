"""The text tokenizer beside others, its size beside its cost, and its speed.

    pip install -e '.[world,bench]'
    pip install --no-deps openai-whisper mistral-common    # for two files inside; their dependencies are heavy
    python benchmarks/text_tokenizer.py data/demo/world --config configs/demo.py --pieces 2048
    python benchmarks/text_tokenizer.py data/laptop/world --config configs/laptop.py --pieces 4096 --codes 4352

About 20 seconds for the demo's world, two minutes for the laptop's. Figures are on held-out text:
names of the valid split, prose and code of the valid split. The public vocabularies are read as
files; neither package is imported and nothing is downloaded. Results: EXPERIMENTS.md.
"""

import argparse
import base64
import concurrent.futures
import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import tiktoken

from data_prep import documents, emoji_world
from gemini_mini import config as config_lib
from gemini_mini import errors
from gemini_mini.data import mixture
from gemini_mini.evals import text_pieces
from gemini_mini.tokenizers import text

WORD = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # how GPT-2 cuts text into words
MIN_SPEED_BYTES = 6_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--config", required=True, help="of the decoder; its stages say what is read how often")
    parser.add_argument("--pieces", type=int, default=2048)
    parser.add_argument("--codes", type=int, default=768, help="of pictures and sounds, in the id space beside (default: %(default)s)")
    args = parser.parse_args()
    world = emoji_world.load(args.world)
    shares = mixture.shares(config_lib.load(args.config, []).task.stages)
    sample = documents.text_sample(world, shares, seed=0)
    ours = text.train(sample, args.pieces)
    compare(world, ours, text.train(english_sample(world, shares), args.pieces))
    sizes(world, shares, sample, args.codes)
    speed(ours, [passage.text for passage in [*world.prose, *world.code]])


def english_sample(world: emoji_world.World, shares: dict[str, float]) -> list[str]:
    """The sample of a world that knows English names alone."""
    items = [item._replace(name_splits={lang: split for lang, split in item.name_splits.items() if lang == "en"})
             for item in world.items]
    clips = [clip if clip.lang == "en" else clip._replace(split="left out") for clip in world.clips]
    english = world._replace(config=dataclasses.replace(world.config, languages=("en",)), items=items, clips=clips)
    return documents.text_sample(english, shares, seed=0, languages=("en",))


def compare(world: emoji_world.World, ours: text.TextTokenizer, english: text.TextTokenizer) -> None:
    """Bytes a piece in each language, code and prose."""
    columns: dict[str, Callable[[Sequence[str]], int]] = {
        f"ours {ours.num_pieces:,}": lambda texts: sum(map(len, ours.encode_many(texts))),
        f"English only {english.num_pieces:,}": lambda texts: sum(map(len, english.encode_many(texts))),
        **public()}
    print("bytes per piece, held-out text\n")
    print("| text | n | bytes |" + "".join(f" {name} |" for name in columns))
    print("| --- | --- | --- |" + " --- |" * len(columns))
    for name, texts in text_pieces.held_out(world).items():
        size = text_pieces.num_bytes(texts)
        print(f"| {name} | {len(texts)} | {size:,} |" + "".join(f" {size / count(texts):.2f} |" for count in columns.values()))


def public() -> dict[str, Callable[[Sequence[str]], int]]:
    """Whisper's multilingual vocabulary and Mistral's third, as counters of pieces."""
    ranks = {base64.b64decode(token): int(rank) for token, rank in
             (line.split() for line in _inside("whisper", "assets/multilingual.tiktoken").read_bytes().splitlines() if line)}
    whisper = tiktoken.Encoding("multilingual", pat_str=WORD, mergeable_ranks=ranks, special_tokens={})
    mistral = sentencepiece.SentencePieceProcessor(
        model_file=str(_inside("mistral_common", "data/mistral_instruct_tokenizer_240323.model.v3")))
    # Mistral's puts a space before every text: where it stays a piece of its own it is not the text's.
    space = mistral.piece_to_id(text.SPACE_MARK)
    return {f"Whisper multilingual {whisper.n_vocab:,}": lambda texts: sum(len(whisper.encode_ordinary(t)) for t in texts),
            f"Mistral v3 {mistral.vocab_size():,}": lambda texts: sum(len(ids) - (ids[:1] == [space]) for ids in map(mistral.encode, texts))}


def _inside(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise errors.InputError(f"{package}: is not installed; see the head of {__file__}")
    return Path(spec.origin).parent / path


def sizes(world: emoji_world.World, shares: dict[str, float], sample: list[str], num_codes: int) -> None:
    """Tokens per byte against what the embedding costs."""
    mixed = text_pieces.mix(world, shares)
    trained = text_pieces.train_sizes(sample)
    print(f"\nvocabulary sizes; beside a byte of text stand {mixed.other_ids_per_byte:.2f} ids that are no text\n")
    print("| width | pieces | pieces per byte | all ids | embedding | of parameters | of FLOPs | FLOPs a byte |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for depth, aspect in ((4, 64), (6, 64)):
        found = [text_pieces.size_of(tokenizer, mixed, depth, aspect, num_codes) for tokenizer in trained.values()]
        least = min(size.flops for size in found)
        ids = [size.pieces_per_byte + mixed.other_ids_per_byte for size in found]
        for size, here in zip(found, ids):
            print(f"| {depth * aspect} | {size.pieces:,} | {size.pieces_per_byte:.4f} | {here / ids[0] - 1:+.1%} | "
                  f"{size.embedding_params / 1e6:.2f} M | {size.embedding_params / size.params:.0%} | "
                  f"{size.embedding_flops_share:.0%} | {size.flops / least - 1:+.1%} |")
    if left := sorted(set(text_pieces.SIZES) - set(trained)):
        print(f"\ncannot be made of this sample, too small for its letters or too large for its words: {left}")


def speed(tokenizer: text.TextTokenizer, corpus: list[str]) -> None:
    """Pieces a second over a corpus in memory: best of five."""
    corpus = corpus * -(-MIN_SPEED_BYTES // text_pieces.num_bytes(corpus))
    pieces = sum(map(len, tokenizer.encode_many(corpus)))
    parts = [corpus[start : start + 512] for start in range(0, len(corpus), 512)]
    ways: dict[str, Callable[[], object]] = {"encode, one by one": lambda: [tokenizer.encode(string) for string in corpus]}
    for num in (1, 2):
        ways[f"encode_many, {num} threads"] = lambda num=num: tokenizer.encode_many(corpus, num)
    with concurrent.futures.ProcessPoolExecutor(2, initializer=_start, initargs=(tokenizer.model_proto,)) as pool:
        ways["2 processes, parts of 512"] = lambda: list(pool.map(_encode, parts))
        print(f"\nspeed: {pieces:,} pieces of {text_pieces.num_bytes(corpus):,} bytes in memory, {os.cpu_count()} cores, "
              f"{len(os.sched_getaffinity(0))} for this process, load {os.getloadavg()[0]:.1f}\n")
        print("| way | pieces/s |\n| --- | --- |")
        for name, way in ways.items():
            seconds = []
            for _ in range(5):
                begin = time.perf_counter()
                way()
                seconds.append(time.perf_counter() - begin)
            print(f"| {name} | {pieces / min(seconds):,.0f} |")


def _start(model_proto: bytes) -> None:
    global _tokenizer
    _tokenizer = text.TextTokenizer(model_proto)


def _encode(texts: list[str]) -> list[np.ndarray]:
    return _tokenizer.encode_many(texts, 1)


if __name__ == "__main__":
    errors.run(main)
