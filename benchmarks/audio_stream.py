"""An hour of speech through the audio tokenizer as a stream: times real time, memory, and agreement.

    python -m benchmarks.audio_stream runs/demo-audio/audio.safetensors --world data/demo/world

The speech is the world's clips said one after another, handed over clip by clip. `alike` is the share of
codes that are those of the whole, encoded in one piece, which needs memory for all of it.
"""

import argparse
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int16

from benchmarks import products
from gemini_mini import errors
from gemini_mini.plan import hlo
from gemini_mini.tasks import audio_tokenizer
from gemini_mini.tokenizers import audio, logmel

RATE = logmel.SAMPLE_RATE_HZ


def said(clips: Sequence[Int16[np.ndarray, "_"]], num_samples: int) -> Iterator[Float32[np.ndarray, "_"]]:
    """The clips one after another, over and over, until so many samples are given."""
    for clip in itertools.cycle(clips):
        yield clip[:num_samples].astype(np.float32) / 32768
        if (num_samples := num_samples - len(clip)) <= 0:
            return


def peak_mb() -> float:
    """The most memory this process had since its peak was last forgotten."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", help="an audio.safetensors")
    parser.add_argument("--world", default="data/demo/world")
    parser.add_argument("--minutes", type=int, default=60)
    args = parser.parse_args()
    tokenizer = audio.load(args.tokenizer)
    clips = [clip.samples for clip in audio_tokenizer.read_world(args.world).clips]
    streamed = {}
    for batch_chunks in (1, 8):
        list(audio.encode_stream(tokenizer, said(clips, 60 * RATE), batch_chunks))  # compiles
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
        streamed[batch_chunks] = np.concatenate(list(audio.encode_stream(tokenizer, said(clips, 60 * args.minutes * RATE), batch_chunks)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{args.minutes} min, {batch_chunks} chunks at once: {len(streamed[batch_chunks])} codes, {60 * args.minutes / wall:.0f} times real "
              f"time, {60 * args.minutes / cpu:.0f} per CPU-second, memory grew by {peak_mb() - before:.0f} MB", flush=True)

    sound = np.concatenate(list(said(clips, 60 * args.minutes * RATE)))
    asked = tokenizer, sound[None], jnp.array([len(sound)])
    encode = jax.jit(audio.AudioTokenizer.encode).lower(*asked).compile()
    whole = np.asarray(encode(*asked))[0]  # warm
    begin = time.perf_counter()
    np.asarray(encode(*asked))
    spent, of_products = time.perf_counter() - begin, products.seconds(hlo.count(encode.as_text(), {}, {}).flops)
    print(f"in one piece: {60 * args.minutes / spent:.0f} times real time, of which products of matrices at the speed of a large one "
          f"{of_products / spent:.0%}; memory {peak_mb() / 1024:.1f} GB")
    border = np.arange(len(whole)) % audio.CHUNK_CODES
    near = np.minimum(border, audio.CHUNK_CODES - border) <= tokenizer.config.reach
    print(f"a code hears {tokenizer.config.reach} codes to either side; of {len(whole)}, alike: "
          + ", ".join(f"{count} chunks at once {np.mean(codes == whole):.3%}, further than that from a border of chunks "
                      f"{np.mean((codes == whole)[~near]):.3%}" for count, codes in streamed.items()))


if __name__ == "__main__":
    errors.run(main)
