"""Recorded digits that you have fetched yourself, as recordings that the evaluations read.

    git clone https://github.com/Jakobovski/free-spoken-digit-dataset
    python -m data_prep.recorded free-spoken-digit-dataset/recordings --out data/recordings

A file is named DIGIT_SPEAKER_NUMBER, such as 7_jackson_32.wav. It becomes 7_jackson_32.en.wav, 16 kHz mono and as loud as
speech is kept here, beside 7_jackson_32.en.txt ("seven"). A speaker is in one half of the test split; transcripts.tsv lists
the dev half for benchmarks/audio_quantisers.py.
What cannot be used is left out, with the reason in built.json.
Next: spoken.py, which reads the folder for the suite `audio`.
"""

import argparse
import collections
import re
from pathlib import Path

from data_prep import own_files, splits
from gemini_mini import errors, files
from gemini_mini.tokenizers import audio_io, logmel

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(r"(\d)_([^_.]+)_(\d+)")
MOST_S = 10.0


def build(source: Path, out: Path) -> bool:
    """Check and write; False when the same was there. Raises: InputError when `source` is no folder, or holds no such recording."""
    if not source.is_dir():
        raise errors.InputError(f"{source}: must be a folder of recorded digits such as 7_jackson_32.wav; fetch one first (README)")
    paths = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))

    def make(folder: Path) -> dict:
        listed, left_out, counts = [], {}, collections.Counter()
        for path in paths:
            try:
                digit, speaker = _write(path, folder)
                counts[digit, speaker] += 1
                if splits.half(half_key(path.stem)) == "dev":
                    listed.append(f"{path.stem}.en.wav\t{WORDS[digit]}\n")
            except errors.InputError as error:
                left_out[own_files.shown(path.name)] = str(error)
        if not counts:
            raise errors.InputError(f"{source}: holds no recorded digit that can be used, of {len(paths)} files"
                                    + "".join(f"; the first: {name}: {reason}" for name, reason in [*left_out.items()][:1]))
        files.write_bytes(folder / "transcripts.tsv", "".join(listed).encode())
        return {"counts": [[WORDS[digit], speaker, count] for (digit, speaker), count in sorted(counts.items())], "left_out": left_out}

    contents = {own_files.shown(path.name): files.hash_bytes(path.read_bytes()) for path in paths}
    code = files.hash_bytes(Path(__file__).read_bytes()) + files.code_hash(audio_io)
    return files.build(out, {"files": contents, "code": code}, make)


def half_key(name: str) -> str:
    """What says the half of a recording: its speaker, where its name tells one, else its name."""
    named = NAME.fullmatch(Path(name).name)
    return f"recorded {named[2] if named else name}"


def _write(path: Path, folder: Path) -> tuple[int, str]:
    """Digit and speaker of a recording, written to `folder` with its text. Raises: InputError when it cannot be used."""
    named = NAME.fullmatch(path.stem)
    if not named or own_files.KIND_OF.get(path.suffix.lower()) != "audio":
        raise errors.InputError("must be a sound file named DIGIT_SPEAKER_NUMBER, such as 7_jackson_32.wav; rename it")
    samples = audio_io.even_loudness(audio_io.read_audio(path, MOST_S))
    if len(samples) < logmel.WINDOW_SAMPLES:
        raise errors.InputError(f"must last at least {logmel.WINDOW_SAMPLES / logmel.SAMPLE_RATE_HZ:g} s, got "
                                f"{len(samples) / logmel.SAMPLE_RATE_HZ:.3f} s; record it again")
    target = folder / f"{path.stem}.en.wav"
    if target.exists():
        raise errors.InputError(f"stands beside another file called {path.stem}; keep one of them")
    audio_io.write_wav(target, samples)
    files.write_bytes(target.with_suffix(".txt"), f"{WORDS[int(named[1])]}\n".encode())
    return int(named[1]), named[2]


def show(out: Path) -> None:
    """Print how many of each digit each speaker said, and what was left out."""
    about = files.read_json(out / "built.json")
    counts = {(word, speaker): count for word, speaker, count in about["counts"]}
    speakers = sorted({speaker for _, speaker in counts})
    print(f"{'':8}" + "".join(f"{speaker:>12}" for speaker in speakers) + f"{'all':>12}")
    for word in WORDS:
        row = [counts.get((word, speaker), 0) for speaker in speakers]
        print(f"{word:8}" + "".join(f"{count:12,}" for count in [*row, sum(row)]))
    for name, reason in about["left_out"].items():
        print(f"left out {name}: {reason}")
    print(f"{out}: {sum(counts.values()):,} recordings of {len(speakers)} speakers; {len(about['left_out']):,} files left out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="recordings such as 7_jackson_32.wav")
    parser.add_argument("--out", type=Path, default=Path("data/recordings"), help="a new folder, or one made by this (default: %(default)s)")
    args = parser.parse_args()
    build(args.folder, args.out)
    show(args.out)


if __name__ == "__main__":
    errors.run(main)
