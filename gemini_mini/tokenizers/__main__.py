"""What the tokenizers of a run keep.

    python -m gemini_mini.tokenizers report runs/demo      prints a card each, writes runs/demo/tokenizers.html
    python -m gemini_mini.tokenizers report released/laptop.safetensors --world data/laptop/world --out cards/laptop
"""

import argparse
from pathlib import Path

from gemini_mini import errors
from gemini_mini.cards import sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gemini_mini.tokenizers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    report = parser.add_subparsers(required=True).add_parser("report", help="a card for each tokenizer of a run")
    report.add_argument("run", type=Path, metavar="RUN", help="a decoder's run folder, or a released file")
    report.add_argument("--world", type=Path, help="default: the folder `world` beside the rows it was trained on")
    report.add_argument("--out", type=Path, help="where the page of a released file goes, which needs --world too; that of a run stands in its folder")
    args = parser.parse_args()
    path = sheet.write(args.run, args.world, args.out)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")


if __name__ == "__main__":
    errors.run(main)
