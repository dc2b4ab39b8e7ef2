"""Our sampler against Hugging Face transformers with its cache, and against the memory.

    pip install -e '.[bench]'
    python benchmarks/decode.py                   both sizes, batches of 1 and 16
    python benchmarks/decode.py --run runs/demo   a trained run alone: its first token, a picture, and what guidance costs

Same shapes, random weights, a prompt of 32 ids each, greedy. The variants take turns in every round, so that other work
on the machine strikes them alike, and run twice in each: for one token, and for all, which counts; the figures are medians. Their
difference is the speed once the prompt is read. CPU time repeats better than the clock where others use the cores. Both have huge pages (memory.py). Ours pays for its grammar; the
peer has none. Every token reads all weights once, so no batch of 1 is faster than (bytes read a second) / (bytes of its
weights), which is measured in the same rounds.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gemini_mini import api, errors, memory as heap, nn, vocab as vocabulary
from gemini_mini.decode import engine, grammar, options, sampling
from gemini_mini.model import decoder

VOCAB = vocabulary.Vocab(6_000, 1_024, 1_024, "benchmark")
DEPTHS = {"16M": 8, "113M": 16}  # of 48 channels a layer
TOKENS = {"16M": 128, "113M": 48}
PROMPT_TOKENS = 32
READ_BYTES = 1 << 28  # far more than the nearer caches hold


def ours(depth: int, dtype: str) -> decoder.Decoder:
    """Random weights that never end an answer: two logits of zero are never the largest."""
    model = decoder.Decoder(decoder.DecoderConfig(VOCAB.size, depth, 48, dtype=dtype), nnx.Rngs(0))
    weights = nn.weights(model)
    weights["embed"] = weights["embed"].at[jnp.array([vocabulary.EOS, vocabulary.USER])].set(0)
    return nn.with_weights(model, weights)


def timed(work: Callable[[], int]) -> dict:
    """What `work` says it made, and the time it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    return {"tokens": tokens, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def answer(model: decoder.Decoder, batch: int, tokens: int) -> int:
    """Tokens of one call of the engine."""
    rng = np.random.default_rng(0)
    prompts = [np.append(np.int32(vocabulary.BOS), VOCAB.text_start + rng.integers(0, 5000, PROMPT_TOKENS - 1)).astype(np.int32)
               for _ in range(batch)]
    settings = engine.Settings(sampling.GREEDY, rules=grammar.Rules(has_images=False), max_tokens=tokens, batch_rows=batch)
    return sum(len(answer.tokens) for answer in engine.generate(model, VOCAB, prompts, settings))


def compare(size: str, batch: int, rounds: int, leave_out: list[str]) -> None:
    """A line for each variant but those whose names hold a word of `leave_out`."""
    depth, tokens = DEPTHS[size], TOKENS[size]
    models = {dtype: ours(depth, dtype) for dtype in ("float32", "bfloat16") if dtype not in leave_out}
    config = models["float32"].config
    shape = dict(vocab_size=config.vocab_size, hidden_size=config.width, intermediate_size=config.hidden_width,
                 num_hidden_layers=depth, num_attention_heads=config.heads, num_key_value_heads=1, head_dim=config.head_dim)
    peer = subprocess.Popen([sys.executable, Path(__file__).with_name("decode_peer.py")],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def ask(tokens: int, **request) -> dict:
        try:
            print(json.dumps(request | {"shape": shape, "batch": batch, "tokens": tokens}), file=peer.stdin, flush=True)
        except BrokenPipeError:
            raise errors.InputError("the peer does not start: pip install -e '.[bench]'") from None
        return json.loads(peer.stdout.readline() or '{"error": "the peer died"}')

    memory = jnp.ones(READ_BYTES // 4)
    read = jax.jit(jnp.max)
    variants = {"reading memory": lambda tokens: timed(lambda: int(read(memory)))}
    for dtype, model in models.items():
        variants[f"ours, {dtype}"] = lambda tokens, model=model: timed(lambda: answer(model, batch, tokens))
    coded = nn.eight_bit(models["float32"])
    weigh = lambda model: sum(a.nbytes for a in jax.tree.leaves(nn.weights(model)))
    wide = weigh(models["float32"])
    num_bytes = {"8 bits": weigh(coded), "bfloat16": wide // 2, "float32": wide}
    variants["ours, weights of 8 bits"] = lambda tokens: timed(lambda: answer(coded, batch, tokens))
    for dtype in models:
        for name, how in (("dynamic cache", (False, False)), ("static cache", (True, False)), ("static, compiled", (True, True))):
            variants[f"HF {dtype}, {name}"] = lambda tokens, dtype=dtype, how=how: ask(
                tokens, dtype=dtype, is_static=how[0], is_compiled=how[1])
    variants = {name: run for name, run in variants.items() if not any(word in name for word in leave_out)}
    for run in variants.values():
        run(1), run(tokens)  # compiles
    taken: dict[str, list[dict]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            first = run(1)  # the prompt; and what nobody read for a while may have to be fetched by the machine first
            taken[name].append(run(tokens))
            if "error" not in first and name != "reading memory":
                taken[name][-1]["after"] = (tokens - 1) * batch / (taken[name][-1]["wall"] - first["wall"])
    peer.stdin.close()
    peer.wait()
    rates = {name: {unit: float(np.median([t["tokens"] / t[unit] for t in found])) for unit in ("wall", "cpu")}
             for name, found in taken.items() if "error" not in found[0]}
    bytes_per_s = {unit: READ_BYTES * rate for unit, rate in rates.pop("reading memory").items()}  # it counts as one token
    after = {name: float(np.median([t["after"] for t in taken[name]])) for name in rates}  # tokens/s once the prompt is read
    best_after = max((rate for name, rate in after.items() if name.startswith("HF")), default=np.nan)
    best = {kind: {unit: max((rate[unit] for name, rate in rates.items() if name.startswith(f"HF {kind}")), default=np.nan)
                   for unit in ("wall", "cpu")} for kind in ("float32", "")}
    print(f"\n{size}: {num_bytes['float32'] / 1e6:.0f} MB of float32, batch {batch}, {tokens} tokens, median of {rounds} rounds; memory "
          f"is read at {bytes_per_s['wall'] / 1e9:.1f} GB/s, {bytes_per_s['cpu'] / 1e9:.1f} a CPU-second")
    for name, found in taken.items():
        if "error" in found[0]:
            print(f"  {name:30} {found[0]['error']}")
        elif name in rates:
            rate, share = rates[name], ""
            if batch == 1:
                own = next(size for kind, size in num_bytes.items() if kind in name)
                shares = [rate[unit] * own / bytes_per_s[unit] for unit in ("wall", "cpu")]
                share = f", {shares[0]:.0%} of the bound of its bytes ({shares[1]:.0%} by CPU)"
            print(f"  {name:30} {rate['wall']:7.1f} tokens/s, {1000 / rate['cpu']:6.2f} CPU-ms a token, "
                  + ", ".join(f"{rate['wall'] / of['wall']:.2f} times the best HF {kind}".strip() + f" ({rate['cpu'] / of['cpu']:.2f} by CPU)"
                              for kind, of in best.items()) + share
                  + f"; after the first token {after[name]:.1f}, {after[name] / best_after:.2f} times the best HF")
    sys.stdout.flush()


def demo(folder: Path, rounds: int) -> None:
    """Time to the first token after a picture, and of a picture of 8 × 8 codes with guidance and without, compiled and warm."""
    model = api.load(folder)
    patch = model.run.tokenizers.image.config.patch
    picture = np.full((8 * patch, 8 * patch, 3), 200, np.uint8)
    size = f"{8 * patch}x{8 * patch}"

    def first() -> int:
        heard = []

        def hear(*_: object) -> bool:
            heard.append(time.perf_counter() - begin)
            return True

        begin = time.perf_counter()
        model.generate_many([[picture, "What is it?"]], hear)
        return heard[0]

    only_picture = options.Options(image_size=size, modalities=("image",), max_tokens=77)  # borders, lines and 64 codes
    ids = model.encode(["Draw: cat"])
    draw = lambda how: lambda: len(model.answer([ids], how))
    works = {"first token after a picture": first, "a picture of 64 codes, decoded to pixels": draw(only_picture)}
    if model.run.settings["task"].get("hide_prompts"):  # else it was not trained for guidance
        works["the same with guidance"] = draw(dataclasses.replace(only_picture, guidance=1.5))
    for work in works.values():
        work()
    found: dict[str, list[dict]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            work()
            found[name].append(timed(work))
    for name, times in found.items():
        wall, cpu = (1000 * np.median([t[unit] for t in times]) for unit in ("wall", "cpu"))
        print(f"{name}: {wall:.0f} ms, best {1000 * min(t['wall'] for t in times):.0f}, {cpu:.0f} CPU-ms (median of {rounds})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=DEPTHS, default=list(DEPTHS), help="default: all")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16], help="default: 1 16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--leave-out", default="", metavar="WORD,...", help="variants, such as bfloat16,static,compiled")
    parser.add_argument("--run", type=Path, help="a trained run: time it, and compare nothing")
    args = parser.parse_args()
    if args.run:
        demo(args.run, args.rounds)
        return
    for size in args.sizes:
        for batch in args.batches:
            compare(size, batch, args.rounds, [word for word in args.leave_out.split(",") if word])


if __name__ == "__main__":
    heap.keep()  # as sample.py; the peer inherits the settings
    errors.run(main)
