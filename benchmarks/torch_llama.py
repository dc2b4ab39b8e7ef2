"""A Llama of PyTorch at our decoder's sizes: the peer that train_step.py and time_to_quality.py start as a process.

    python benchmarks/torch_llama.py time '{"shape": {...}, "precision": "float32", "compile": true, "rows": 16}'
    python benchmarks/torch_llama.py train '{"shape": {...}, ..., "batches": "batches.npz", "rate": 1e-3}'

The first makes one step for every line it reads, the second trains. Both answer in lines of JSON. The model is Hugging
Face's with one key-value head, tied embeddings, AdamW, and, for bfloat16, autocast. Nothing of this package is imported.
"""

import json
import math
import os
import sys
import time

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM


class Peer:
    """`step(batch)` is one step of AdamW at `self.rate`; a batch holds tokens, targets, weights, maybe positions and segments."""

    def __init__(self, settings: dict):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        s = settings["shape"]
        config = LlamaConfig(
            vocab_size=s["vocab_size"], hidden_size=s["width"], intermediate_size=s["hidden"], num_hidden_layers=s["depth"],
            num_attention_heads=s["heads"], num_key_value_heads=s["kv_heads"], head_dim=s["head_dim"],
            max_position_embeddings=s["context_tokens"], tie_word_embeddings=True, use_cache=False, attn_implementation="sdpa")
        self.model = LlamaForCausalLM(config)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": settings.get("weight_decay", 0.1)}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.get("rate", 1e-3), betas=(0.9, 0.95), fused=True)
        self.is_bfloat16 = settings["precision"] == "bfloat16"
        self.nats = torch.compile(self._nats) if settings["compile"] else self._nats

    def _nats(self, batch: dict) -> torch.Tensor:
        """Mean nats of the targets, by weight."""
        seen = None
        if "segments" in batch:
            segments = batch["segments"]
            same = segments[:, None, :, None] == segments[:, None, None, :]
            seen = same & torch.ones(segments.shape[1:] * 2, dtype=torch.bool).tril()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_bfloat16):
            scores = self.model(input_ids=batch["tokens"], position_ids=batch.get("positions"), attention_mask=seen).logits
        nats = torch.nn.functional.cross_entropy(scores.float().flatten(0, 1), batch["targets"].flatten(), reduction="none")
        weights = batch["weights"].flatten()
        return (nats * weights).sum() / weights.sum()

    def step(self, batch: dict) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.nats(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def answer(**values) -> None:
    print(json.dumps(values), flush=True)


def timed(settings: dict) -> None:
    peer, shape = Peer(settings), settings["shape"]
    ids = torch.randint(0, shape["vocab_size"], (settings["rows"], shape["context_tokens"] + 1))
    batch = {"tokens": ids[:, :-1], "targets": ids[:, 1:], "weights": torch.ones(settings["rows"], shape["context_tokens"])}
    peer.step(batch)
    left, right = torch.ones(4096, shape["width"]), torch.ones(shape["width"], 4 * shape["width"])
    answer(ready=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        if line.strip() == "product":
            for _ in range(5):
                left @ right
        else:
            peer.step(batch)
        answer(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def train(settings: dict) -> None:
    """A line at every evaluation: steps, seconds of training alone, and the loss on the validation rows."""
    stored = np.load(settings["batches"])
    def batch(part: str, n: int) -> dict:
        return {name: torch.from_numpy(stored[f"{part}/{name}"][n]) for name in ("tokens", "positions", "segments", "targets", "weights")}
    peer, steps = Peer(settings), settings["steps"]
    if settings["compile"]:  # compiling is not counted
        peer.nats(batch("train", 0)).backward()
    with torch.no_grad():
        peer.nats(batch("valid", 0))
    warmup, spent_wall, spent_cpu = max(1, round(0.03 * steps)), 0.0, 0.0
    for n in range(steps):
        fraction = min(1.0, (n + 1) / warmup)
        decayed = 0.5 * (1 + math.cos(math.pi * n / steps)) * 0.9 + 0.1
        for group in peer.optimizer.param_groups:
            group["lr"] = settings["rate"] * fraction * decayed
        now = batch("train", n)
        wall, cpu = time.perf_counter(), time.process_time()
        peer.step(now)
        spent_wall, spent_cpu = spent_wall + time.perf_counter() - wall, spent_cpu + time.process_time() - cpu
        if (n + 1) % settings["eval_every"] == 0 or n + 1 == steps:
            with torch.no_grad():
                loss = np.mean([peer.nats(batch("valid", i)).item() for i in range(len(stored["valid/tokens"]))])
            answer(step=n + 1, wall=spent_wall, cpu=spent_cpu, loss=float(loss))


if __name__ == "__main__":
    {"time": timed, "train": train}[sys.argv[1]](json.loads(sys.argv[2]))
