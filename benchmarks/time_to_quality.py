"""How long training takes to a loss: ours, and a Llama of PyTorch with AdamW, on the same packed rows.

    python -m benchmarks.time_to_quality configs/demo.py --steps 150 --torch-python /path/to/python

Needs a Python with `pip install -e '.[bench]'` for PyTorch, which runs in a process of its own. Its learning rate is the
best of RATES in short runs, its schedule a cosine to a tenth. Every run ends its own schedule; ours, in the config's
settings (run.products=bfloat16 among the overrides, if wished), are the given shares of PyTorch's steps. Every run reads
the same first batches; nothing is hidden from the input and every target weighs the same. The loss is the mean, over the validation sources, of nats a target. Seconds are of
training alone, without compiling or evaluating; CPU-seconds, of all threads, are the figure to read on a shared machine.
"""

import argparse
import dataclasses
import json
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gemini_mini import config as config_lib, errors, matmul, memory, nn
from gemini_mini.data import packing, rows
from gemini_mini.tasks import pretrain
from gemini_mini.train import loss, optim, step as step_lib

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
PEER = Path(__file__).parent / "torch_llama.py"


def valid_batches(task: pretrain.Pretrain) -> list[packing.Batch]:
    """The first rows of every validation source that fills a batch."""
    stored = rows.load(Path(task.rows) / "valid", task.vocab.fingerprint)
    return [packing.batch_of(source[: task.batch_rows]) for source in stored.sources.values() if len(source) >= task.batch_rows]


def ours(task: pretrain.Pretrain, config: optim.OptimConfig, steps: int, train: list, valid: list, every: int) -> list[dict]:
    module = task.init(nnx.Rngs(0))
    optimizer = optim.make(config, nn.axes(module), steps)
    state = step_lib.init(module, optimizer)
    step = jax.jit(step_lib.make(module, task.loss, optimizer, 0, config.explode, config.clip), donate_argnums=0)
    step = step.lower(state, train[0]).compile()

    @jax.jit
    def nats_of(weights, batch):
        model = nn.with_weights(module, weights)
        hidden = model(batch.tokens, batch.positions, batch.segments)
        _, nats = loss.total(model.embed[...], hidden, batch.targets, batch.has_target)
        return jnp.sum(nats * batch.has_target) / jnp.sum(batch.has_target)

    points, spent = [], np.zeros(2)
    for n in range(steps):
        begun = np.array([time.perf_counter(), time.process_time()])
        state, metrics = step(state, train[n])
        metrics["loss"].block_until_ready()
        spent += np.array([time.perf_counter(), time.process_time()]) - begun
        if (n + 1) % every == 0 or n + 1 == steps:
            found = np.mean([nats_of(state.weights, batch) for batch in valid])
            points.append({"step": n + 1, "wall": spent[0], "cpu": spent[1], "loss": float(found)})
    return points


def peer(python: str, settings: dict, **changes) -> list[dict]:
    made = subprocess.run([python, PEER, "train", json.dumps(settings | changes)], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in made.stdout.splitlines()]


def show(name: str, points: list[dict]) -> dict:
    """Print a curve; its last point."""
    for p in points:
        print(f"{name:36s} step {p['step']:4d}  {p['cpu']:7.1f} CPU-s  {p['wall']:7.1f} s  loss {p['loss']:.3f}", flush=True)
    return points[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to a validation loss, ours and PyTorch's.")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--torch-python", default="python")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tune-steps", type=int, default=60)
    parser.add_argument("--shares", type=float, nargs="+", default=(0.3, 0.4, 0.5))
    args = parser.parse_args()
    experiment = config_lib.load(args.config, args.overrides)
    matmul.use(experiment.run.products)
    task = dataclasses.replace(experiment.task, hide_images=0.0, hide_prompts=0.0, user_share=1.0, answer_text_weight=1.0)
    batch = task.batches(args.steps, 0)
    train, valid, every = [batch(n) for n in range(args.steps)], valid_batches(task), max(1, args.steps // 10)
    model = dataclasses.replace(task.model, vocab_size=task.vocab.size)
    shape = {name: getattr(model, name) for name in ("vocab_size", "width", "depth", "heads", "kv_heads", "head_dim", "context_tokens")}
    with tempfile.TemporaryDirectory() as folder:
        stored = {}
        for part, batches in (("train", train), ("valid", valid)):
            for field, name in (("tokens", "tokens"), ("positions", "positions"), ("segments", "segments"),
                                ("targets", "targets"), ("has_target", "weights")):
                values = np.stack([getattr(b, field) for b in batches])
                stored[f"{part}/{name}"] = values if field == "has_target" else values.astype(np.int64)
        np.savez(Path(folder) / "batches.npz", **stored)
        settings = {"shape": shape | {"hidden": model.hidden_width}, "precision": "float32", "compile": False,
                    "batches": f"{folder}/batches.npz", "eval_every": every}
        tuned = {rate: show(f"torch float32 AdamW {rate:g}, short",
                            peer(args.torch_python, settings, rate=rate, steps=args.tune_steps)[-1:]) for rate in RATES}
        rate = min(tuned, key=lambda r: tuned[r]["loss"])
        best = show(f"torch float32 AdamW {rate:g}", peer(args.torch_python, settings, rate=rate, steps=args.steps))
        ends = [(share, show(f"ours {experiment.optim.kind}, {share:g} of the steps",
                             ours(task, experiment.optim, round(share * args.steps), train, valid, every))) for share in args.shares]
        half = show(f"torch bfloat16 AdamW {rate:g}", peer(args.torch_python, settings, rate=rate, steps=args.steps,
                                                           precision="bfloat16", compile=True))
    for name, end in (("float32", best), ("bfloat16", half)):
        reached = [(share, p) for share, p in ends if p["loss"] <= end["loss"]]
        if reached:
            share, p = reached[0]
            print(f"to torch {name}'s loss of {end['loss']:.3f}: ours with {share:g} of its steps reaches {p['loss']:.3f} in "
                  f"{p['cpu'] / end['cpu']:.2f} of its CPU-seconds and {p['wall'] / end['wall']:.2f} of its wall time")
        else:
            print(f"to torch {name}'s loss of {end['loss']:.3f}: not reached by ours")


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
