"""Hugging Face transformers as the peer of decode.py: reads one request a line, answers one line of JSON.

A process of its own, because torch and jax must not share threads. The model has the shape and the bytes of
ours: Llama's blocks, one key-value head, tied output; its weights are random.
"""

import json
import os
import sys
import time

import torch
import transformers

PROMPT_TOKENS = 32


def model(shape: dict, dtype: str) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**shape, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    return transformers.LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    models = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = request["dtype"], request["is_compiled"]
        try:
            if key not in models:
                models[key] = model(request["shape"], request["dtype"])
                if request["is_compiled"]:
                    models[key].forward = torch.compile(models[key].forward)
            prompt = torch.randint(100, 5000, (request["batch"], PROMPT_TOKENS))
            cache = {"cache_implementation": "static"} if request["is_static"] else {}
            wall, cpu = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                out = models[key].generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                                           max_new_tokens=request["tokens"], min_new_tokens=request["tokens"], **cache)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(json.dumps({"tokens": out[:, PROMPT_TOKENS:].numel(), "wall": wall, "cpu": cpu}), flush=True)
        except Exception as error:  # a variant that does not work here is a line of the table
            print(json.dumps({"error": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}), flush=True)


if __name__ == "__main__":
    main()
