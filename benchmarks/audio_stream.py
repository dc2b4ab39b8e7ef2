"""An hour of speech through the audio tokenizer as a stream: times real time, memory, and agreement.

    python -m benchmarks.audio_stream runs/demo-audio/audio.safetensors --world data/demo/world

The speech is the world's clips said one after another. `alike` is the share of codes of a minute
that are those of the minute encoded in one piece: cut into chunks, and handed over second by second.
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import products
from gemini_mini import errors
from gemini_mini.plan import hlo
from gemini_mini.tasks import audio_tokenizer
from gemini_mini.tokenizers import audio, logmel

RATE = logmel.SAMPLE_RATE_HZ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", help="an audio.safetensors")
    parser.add_argument("--world", default="data/demo/world")
    parser.add_argument("--minutes", type=int, default=60)
    args = parser.parse_args()
    tokenizer = audio.load(args.tokenizer)
    clips = [clip.samples for clip in audio_tokenizer.read_world(args.world).clips]
    minute = np.concatenate(clips)[: 60 * RATE].astype(np.float32) / 32768

    asked = tokenizer, minute[None], jnp.array([len(minute)])
    encode = jax.jit(audio.AudioTokenizer.encode).lower(*asked).compile()
    piece = np.asarray(encode(*asked))[0]
    cut = audio.encode_clip(tokenizer, minute)
    streamed = np.concatenate(list(audio.encode_stream(tokenizer, np.split(minute, 60))))
    print(f"a code hears {tokenizer.config.reach} codes to either side; alike: in chunks {np.mean(cut == piece):.2%}, "
          f"as a stream {np.mean(streamed == piece):.2%} of {len(piece)}")

    begin = time.perf_counter()
    np.asarray(encode(*asked))
    spent, of_products = time.perf_counter() - begin, products.seconds(hlo.count(encode.as_text(), {}, {}).flops)
    print(f"a minute in one piece: {spent:.3f} s, of which products of matrices at the speed of a large one {of_products / spent:.0%}")

    for batch_chunks in (1, 8):
        list(audio.encode_stream(tokenizer, [minute], batch_chunks))  # compiles
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.perf_counter(), time.process_time()
        codes = sum(map(len, audio.encode_stream(tokenizer, (b for _ in range(args.minutes) for b in np.split(minute, 60)), batch_chunks)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{args.minutes} min, {batch_chunks} chunks at once: {codes} codes, {60 * args.minutes / wall:.0f} times real time, "
              f"{60 * args.minutes / cpu:.0f} per CPU-second, memory grew by {grown:.0f} MB")


if __name__ == "__main__":
    errors.run(main)
