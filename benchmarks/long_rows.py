"""What long rows cost: attention alone and a whole step of training, a process for each variant.

    python benchmarks/long_rows.py attention      JAX's own, naive, chunks, blockwise and flash, forward and backward, one row
    python benchmarks/long_rows.py step           the demo's decoder, forward, backward and update, 16,384 ids a step

A line per variant: CPU-seconds and wall seconds of the best of some runs, microseconds a token, XLA's own count
of temporary memory, and how far the process grew beyond what it had compiled in. Documents are 1, the dearest, or of
about 256 ids. flash is what `run.products=bfloat16` has, where the CPU can (its own memory is in the growth alone); the
others are XLA's, in float32. "of its arithmetic" is the time of a token beside that of the shortest row, over the same
ratio of FLOPs with causal attention: 1 or less grows no faster than attention's own arithmetic.
"""

import argparse
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gemini_mini import errors, matmul, nn, vocab as vocabulary
from gemini_mini.data import packing
from gemini_mini.model import attention, decoder, flash, ring
from gemini_mini.train import loss, optim, step as step_lib

HEADS, HEAD_DIM, TOKENS, DOCUMENT, ROUNDS = 4, 64, 16_384, 256, 2
VOCAB = vocabulary.Vocab(2048, 512, 256, "benchmark")  # about the demo's
ATTENTION = [(kind, length, 1) for length in (2048, 8192) for kind in ("jax.nn", "naive", "chunks", "blockwise", "flash")
             if (kind, length) != ("chunks", 8192)]  # which compiles for minutes
ATTENTION += [(kind, *shape) for shape in ((8192, 8192 // DOCUMENT), (16_384, 1)) for kind in ("blockwise", "flash")]
STEP = [("chunks", 256, 1), ("chunks", 512, 1), ("chunks", 1024, 1), ("blockwise", 512, 1), ("blockwise", 1024, 1),
        ("blockwise", 2048, 1), ("blockwise", 4096, 1), ("blockwise", 8192, 1), ("blockwise", 16_384, 1),
        ("blockwise", 16_384, 16_384 // DOCUMENT)]
STEP += [("flash", length, 1) for length in (256, 512, 1024, 2048, 4096, 8192, 16_384)] + [("flash", 16_384, 16_384 // DOCUMENT)]


def whole_mask(segments):
    """T x T: what each position sees."""
    order = jnp.arange(segments.shape[1])
    return (segments[:, :, None] == segments[:, None]) & (order[:, None] >= order)[None]


def attend(kind: str, length: int, documents: int):
    """Gradients of attention over one row, and its arguments."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(1, length, HEADS, HEAD_DIM)).astype(np.float32)
    k, v = rng.normal(size=(2, 1, length, 1, HEAD_DIM)).astype(np.float32)
    segments = (np.arange(length) * documents // length + 1).astype(np.int32)[None]
    function = {"jax.nn": lambda q, k, v, segments: jax.nn.dot_product_attention(q, k, v, mask=whole_mask(segments)[:, None]),
                "naive": lambda q, k, v, segments: attention.attend(q, k, v, whole_mask(segments)), "chunks": attention.attend_packed,
                "blockwise": lambda *x: ring.attend(*x, ring.Blockwise()), "flash": lambda *x: ring.attend(*x, flash.Flash())}[kind]
    return jax.grad(lambda q, k, v, segments: jnp.sum(function(q, k, v, segments) ** 2), (0, 1, 2)), (q, k, v, segments)


def train(kind: str, length: int, documents: int):
    """The demo's step on random rows, and its arguments."""
    config = decoder.DecoderConfig(VOCAB.size, context_tokens=length, attention="chunks" if kind == "flash" else kind, shortcuts=True)
    module = decoder.Decoder(config, nnx.Rngs(0))
    ids = np.random.default_rng(0).integers(vocabulary.NUM_CONTROL, VOCAB.end, (TOKENS // length, length)).astype(np.int32)
    ids[:, :: length // documents] = vocabulary.BOS

    def loss_of(module, batch, key):
        hidden = module(batch.tokens, batch.positions, batch.segments)
        return loss.next_token(module.embed[...], hidden, batch.targets, batch.has_target, jnp.ones_like(batch.has_target), VOCAB)

    optimizer = optim.make(optim.OptimConfig(kind="muon"), nn.axes(module), 100)
    return step_lib.make(module, loss_of, optimizer, 0), (step_lib.init(module, optimizer), packing.batch_of(ids))


def measure(what: str, kind: str, length: int, documents: int) -> str:
    """One line, for a process of its own."""
    if kind == "flash":
        matmul.use("bfloat16")
    function, args = {"attention": attend, "step": train}[what](kind, length, documents)
    begin = time.process_time()
    compiled = jax.jit(function, donate_argnums=(0,) if what == "step" else ()).lower(*args).compile()
    compile_s, tokens = time.process_time() - begin, length if what == "attention" else TOKENS
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(ROUNDS):
        cpu, wall = time.process_time(), time.monotonic()
        out = jax.block_until_ready(compiled(*args))
        times.append((time.process_time() - cpu, time.monotonic() - wall))
        args = (out[0], args[1]) if what == "step" else args
    cpu, wall = min(times)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, as Linux counts.
    return (f"{what} {kind} rows of {length} in {documents} documents: {cpu:.3f} CPU-s {wall:.3f} s, {cpu / tokens * 1e6:.1f} us/token, "
            f"temporary {compiled.memory_analysis().temp_size_in_bytes / 1e6:.0f} MB, grew {(rss - before) / 1e3:.0f} MB to "
            f"{rss / 1e3:.0f} MB, compiled in {compile_s:.1f} CPU-s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("attention", "step"))
    parser.add_argument("variant", nargs="*", help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.variant:
        kind, *sizes = args.variant
        print(measure(args.what, kind, *map(int, sizes)))
        return
    what = args.what
    base, flops = {}, lambda length: decoder.DecoderConfig(VOCAB.size).flops_per_token(length)
    variants = {"attention": ATTENTION, "step": STEP}[what]
    try:
        matmul.use("bfloat16")
    except errors.InputError as error:
        print(f"flash is left out: {error}")
        variants = [variant for variant in variants if variant[0] != "flash"]
    for variant in variants:
        line = subprocess.run([sys.executable, __file__, what, *map(str, variant)], check=True, capture_output=True, text=True).stdout.strip()
        each, (_, length, documents) = float(line.split(" us/token")[0].split()[-1]), variant
        if what == "attention":
            first = base.setdefault((length, documents), each)
            print(f"{line}; {first / each:.1f} times as fast as the first of its kind", flush=True)
        else:
            first = base.setdefault(variant[0] == "flash", (each, length))
            print(f"{line}; {each / first[0] / (flops(length) / flops(first[1])):.2f} of its arithmetic", flush=True)


if __name__ == "__main__":
    main()
