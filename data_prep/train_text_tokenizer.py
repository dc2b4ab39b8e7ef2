"""Train the text tokenizer on a sample of what the decoder will read, weights as in its mixture.

    python -m data_prep.train_text_tokenizer data/demo/world --config configs/demo.py --pieces 2048 --out data/demo/text

Next: ../benchmarks/text_tokenizer.py, where the numbers of pieces come from.
"""

import argparse
from pathlib import Path

from data_prep import documents, own_documents, worlds
from gemini_mini import config, errors, files
from gemini_mini.data import mixture
from gemini_mini.tokenizers import text


def build(world_folder: Path, shares: dict[str, float], num_pieces: int, out: Path) -> None:
    """Write out/text.model, unless the same is there."""
    inputs = {"world": files.built_key(world_folder), "pieces": num_pieces, "shares": shares,
              "code": files.code_hash(text, documents, *documents.MODULES, own_documents)}

    def make(folder: Path) -> None:
        print(f"text tokenizer: training {num_pieces} pieces (a few seconds)")
        reader, world = worlds.load(world_folder)
        sample = reader.text_sample(world, shares, seed=0)
        tokenizer = text.train(sample, num_pieces, is_exact=reader is documents)
        files.write_bytes(folder / "text.model", tokenizer.model_proto)
        size = sum(len(line.encode()) for line in sample)
        ids = sum(map(len, tokenizer.encode_many(sample)))
        print(f"text tokenizer: {tokenizer.num_pieces} pieces, {size / ids:.2f} bytes per piece over {size:,} bytes")

    files.build(out, inputs, make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--config", required=True, help="of the decoder; its stages say what is read how often")
    parser.add_argument("--pieces", type=int, default=2048)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    build(args.world, mixture.shares(config.load(args.config, []).task.stages), args.pieces, args.out)


if __name__ == "__main__":
    errors.run(main)
