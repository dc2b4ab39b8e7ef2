"""Train the text tokenizer on a sample of everything the decoder will read.

    python -m data_prep.train_text_tokenizer data/demo/world --pieces 2048 --out data/demo/text
"""

import argparse
from pathlib import Path

from data_prep import documents, emoji_world
from gemini_mini import errors, files
from gemini_mini.tokenizers import text


def build(world_folder: Path, num_pieces: int, out: Path) -> None:
    """Write out/text.model, unless the same is there."""
    inputs = {"world": files.built_key(world_folder), "pieces": num_pieces,
              "code": files.code_hash(text, documents)}

    def make(folder: Path) -> None:
        print(f"text tokenizer: training {num_pieces} pieces (a few seconds)")
        sample = documents.text_sample(emoji_world.load(world_folder), seed=0)
        tokenizer = text.train(sample, num_pieces)
        files.write_bytes(folder / "text.model", tokenizer.model_proto)
        size = sum(len(line.encode()) for line in sample)
        ids = sum(len(tokenizer.encode(line)) for line in sample)
        print(f"text tokenizer: {tokenizer.num_pieces} pieces, {size / ids:.2f} bytes per piece over {size:,} bytes")

    files.build(out, inputs, make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--pieces", type=int, default=2048)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    build(args.world, args.pieces, args.out)


if __name__ == "__main__":
    errors.run(main)
