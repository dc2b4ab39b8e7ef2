"""The embedded world as TFDS datasets in ArrayRecord files, without TensorFlow.

    python -m data_prep.tfds_sources --size tiny --out data/tfds

Three datasets over one built world: emoji_pictures (picture and names), emoji_speech (clip and
what it says) and emoji_video (clip and caption). A split of a dataset holds what the world holds
in that split and nothing else. Their names carry the world's fingerprint: another world is another
dataset, never a stale one. Where ArrayRecord has no wheel, the world's own numpy files serve.
Next: tfds_builders.py.
"""

import argparse
from pathlib import Path
from typing import Any

from data_prep import emoji_world
from data_prep.emoji_world import World
from gemini_mini import errors, progress

try:
    import tensorflow_datasets as tfds

    from data_prep import tfds_builders
except ImportError as missing:
    tfds_builders = None
    MISSING = missing.name


def prepare(world: World, folder: str | Path) -> list[Path]:
    """Write the three datasets, or reuse those already there; their folders.

    Raises: InputError when TFDS or ArrayRecord is not installed.
    """
    _require()
    tfds.disable_progress_bar()
    written = []
    with progress.bar("TFDS", len(tfds_builders.BUILDERS), "datasets") as bar:
        for kind in tfds_builders.BUILDERS:
            builder = kind(world=world, data_dir=str(folder))
            builder.download_and_prepare()
            written.append(Path(str(builder.data_dir)))
            bar.advance()
    return written


def read(folder: str | Path, split: str) -> Any:
    """Random access to the records of one split of a dataset folder."""
    _require()
    return tfds.builder_from_directory(folder).as_data_source(split=split)


def _require() -> None:
    if tfds_builders is None:
        raise errors.InputError(
            f"TFDS datasets need {MISSING!r}, which is not installed or has no wheel for this system; "
            "run: pip install 'gemini_mini[array_record]', or use the world's own numpy files "
            "(python -m data_prep.emoji_world), which need neither")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the embedded world as TFDS datasets (ArrayRecord).")
    parser.add_argument("--size", choices=sorted(emoji_world.SIZES), default="demo")
    parser.add_argument("--out", type=Path, required=True, help="folder for the datasets, e.g. data/tfds")
    args = parser.parse_args()
    _require()
    source = args.out / "worlds" / args.size
    emoji_world.build(emoji_world.SIZES[args.size], source)
    for folder in prepare(emoji_world.load(source), args.out):
        print(folder)


if __name__ == "__main__":
    errors.run(main)
