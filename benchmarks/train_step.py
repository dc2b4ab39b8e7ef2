"""One training step on the CPU: ours, and a Llama of PyTorch of the same shape, in turns.

    python -m benchmarks.train_step --torch-python /path/to/python

Needs a Python with `pip install -e '.[bench]'` for PyTorch. Every variant is a process of its own that waits while
another steps; a round is a step of each. Ours is the task's loss, the decoder and the optimizer of a run, on rows packed
with documents; PyTorch's rows are one text each. The machine's peak is the fastest reading of a large float32 product,
of either library, in the same rounds; where products are in bfloat16 it is the fastest of ours (run.products), PyTorch's variants too. Seconds are medians;
CPU-seconds, of all threads, are the figure to read on a shared machine. The last column is the optimizer's part of a step.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gemini_mini import errors, matmul, memory, nn, vocab as vocabulary
from gemini_mini.data import packing
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import optim, step as step_lib

VOCAB = vocabulary.Vocab(4096, 3000, 1024, "synthetic")
ROWS, ROW_TOKENS = 16, 256
MODEL = decoder.DecoderConfig(vocab_size=VOCAB.size, depth=6, aspect=64, context_tokens=ROW_TOKENS)
PEER = Path(__file__).parent / "torch_llama.py"
PRODUCTS = 5  # of [4096, D] and [D, 4 D], for one reading of the peak
VARIANTS = [(f"ours {kind} {dtype} {products}", {"kind": kind, "dtype": dtype, "products": products}) for kind, dtype, products in
            (("muon", "float32", "xla"), ("adamw", "float32", "xla"), ("adamw", "bfloat16", "xla"), ("muon", "float32", "bfloat16"),
             ("adamw", "float32", "bfloat16"))]
PEERS = [(f"torch {'compiled' if compile else 'eager'} {precision}", {"precision": precision, "compile": compile})
         for precision in ("float32", "bfloat16") for compile in (False, True)]


class Synthetic(pretrain.Pretrain):
    """The pretraining task without its files."""

    vocab = VOCAB


def documents() -> packing.Batch:
    rng = np.random.default_rng(0)
    def document(size: int) -> np.ndarray:
        return np.concatenate([[vocabulary.BOS], rng.integers(vocabulary.NUM_CONTROL, VOCAB.end, size - 2), [vocabulary.EOS]])
    return packing.batch_of(packing.pack([document(n) for n in rng.integers(32, 160, 8 * ROWS)], ROW_TOKENS)[:ROWS])


def work(kind: str, dtype: str, products: matmul.Library) -> None:
    """Answer every line of standard input with the seconds of a step, or of products."""
    matmul.use(products)
    task = Synthetic("", "", "", "", (), dataclasses.replace(MODEL, dtype=dtype), ROWS, hide_images=1.0,
                     user_share=0.1, answer_text_weight=4.0)
    module, batch = task.init(nnx.Rngs(0)), documents()
    config = optim.OptimConfig(kind=kind)
    optimizer = optim.make(config, nn.axes(module), 1000)
    step = jax.jit(step_lib.make(module, task.loss, optimizer, 0, config.explode, config.clip), donate_argnums=0)
    left, right, product = jnp.ones((4096, MODEL.width)), jnp.ones((MODEL.width, 4 * MODEL.width)), jax.jit(nn.product)
    update = jax.jit(optimizer.update)
    state, _ = step(step_lib.init(module, optimizer), batch)
    product(left, right).block_until_ready()
    jax.block_until_ready(update(state.weights, state.opt_state, state.weights))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        if line.strip() == "product":
            for _ in range(PRODUCTS):
                product(left, right).block_until_ready()
        elif line.strip() == "update":
            jax.block_until_ready(update(state.weights, state.opt_state, state.weights))
        else:
            state, _ = jax.block_until_ready(step(state, batch))
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)


class Worker:
    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.is_ready = bool(self.process.stdout.readline())  # else it has said why not

    def ask(self, what: str) -> tuple[float, float]:
        """Wall and CPU seconds."""
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["wall"], answer["cpu"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step, ours and PyTorch's.")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], help="variants whose names hold one of these")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(**args.worker)
    shape = {name: getattr(MODEL, name) for name in ("vocab_size", "width", "depth", "heads", "kv_heads", "head_dim", "context_tokens")}
    shape["hidden"] = MODEL.hidden_width
    commands = {name: [sys.executable, "-m", "benchmarks.train_step", "--worker", json.dumps(w)] for name, w in VARIANTS}
    commands |= {name: [args.torch_python, str(PEER), "time", json.dumps(p | {"shape": shape, "rows": ROWS})] for name, p in PEERS}
    workers = {name: Worker(command) for name, command in commands.items() if any(part in name for part in args.only)}
    if missing := [name for name, worker in workers.items() if not worker.is_ready]:
        print(f"left out, for they cannot be run here: {', '.join(missing)}", flush=True)
    workers = {name: worker for name, worker in workers.items() if worker.is_ready}
    spent, products, updates = ({name: [] for name in workers} for _ in range(3))
    for _ in range(args.rounds):
        for name, worker in workers.items():
            spent[name].append(worker.ask("step"))
            products[name].append(worker.ask("product")[1])
            if name.startswith("ours"):
                updates[name].append(worker.ask("update")[1])
    for worker in workers.values():
        worker.close()
    cores, flops = len(os.sched_getaffinity(0)), ROWS * ROW_TOKENS * MODEL.flops_per_token(ROW_TOKENS)
    is_ours = lambda name: name.startswith("ours") and name.endswith("bfloat16")
    least = lambda narrow: min((min(seconds) for name, seconds in products.items() if is_ours(name) == narrow), default=math.nan)
    peak = {narrow: PRODUCTS * 2 * 4096 * 4 * MODEL.width**2 / least(narrow) for narrow in (False, True)}
    middle = {name: [statistics.median(x) for x in zip(*times)] for name, times in spent.items()}
    best = min((cpu for name, (_, cpu) in middle.items() if name.startswith("torch") and "float32" in name), default=math.nan)
    print(f"{MODEL.num_params:,} parameters, {ROWS} × {ROW_TOKENS} ids, {cores} cores, {args.rounds} rounds; "
          f"peak {peak[False] / 1e9:.0f} GFLOP a CPU-second, in bfloat16 {peak[True] / 1e9:.0f}; {flops / 1e9:.0f} GFLOP a step")
    for name, (wall, cpu) in middle.items():
        low = min(c for _, c in spent[name])
        print(f"{name:26s} {cpu:5.2f} CPU-s (least {low:.2f})  {wall:6.2f} s  {best / cpu:5.2f} × the best torch float32  "
              f"{flops / cpu / peak[is_ours(name) or name.startswith('torch') and 'bfloat16' in name]:4.0%} of the peak"
              + (f"  optimizer {statistics.median(updates[name]) / cpu:4.1%}" if updates[name] else ""))


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
