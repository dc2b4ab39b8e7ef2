"""python train.py CONFIG --plan TOPOLOGY [--slices N] [name=value ...]

    python train.py configs/nano1.py --plan v5e:4x4
    python train.py configs/nano1.py --plan v5e:16x16 --slices 2 run.mesh='(2,256,1,1)' task.batch_rows=512

Compiles the real training step for chips that are not there and prints, for each of them, memory, work,
bytes on the links, the bound these set on speed, an estimate, and tokens a day. When the step does not fit
it names the largest arrays, looks for a mesh that does, and exits with code 2.
"""

import argparse
import dataclasses
import math
from collections.abc import Iterator

from gemini_mini import config, errors, parallel
from gemini_mini.model import decoder, splash
from gemini_mini.plan import compiler, hlo, report, topology

TENSOR, CONTEXTS = (1, 2, 4), 3  # what a search tries: sizes of the tensor axis, and how many of the context axis


def main() -> None:
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--plan", required=True, metavar="TOPOLOGY")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args()
    experiment = compiler.unread(config.load(args.config, args.overrides))
    chip, devices = topology.chip(args.plan), topology.devices(args.plan, args.slices)
    task, model = experiment.task, dataclasses.replace(experiment.task.model, vocab_size=experiment.task.vocab.size)
    mesh = parallel.mesh(experiment.run.mesh, devices)
    hosts = len({d.process_index for d in devices})
    print(f"{args.config} on {args.slices} x {args.plan}: {len(devices)} chips ({devices[0].device_kind}), {hosts} hosts, "
          f"mesh {', '.join(f'{axis} {n}' for axis, n in mesh.shape.items())}\n{model.num_params / 1e9:.2f}B parameters, "
          f"{task.batch_rows} rows of {model.context_tokens:,} ids a step, {task.batch_rows * model.context_tokens / 1e6:.2f}M ids", flush=True)
    try:
        compiled = compiler.compile_step(experiment, mesh)
    except compiler.DoesNotFit as refusal:
        print(f"does not fit: needs {refusal.needed} of {refusal.there} a chip; the largest arrays:")
        for size, count, what in refusal.arrays:
            print(f"  {size / report.GIB:6.2f} GiB x {count}   {what}")
        print(_proposal(experiment, devices, args.slices), flush=True)
        raise SystemExit(2) from None
    kernel = splash.Splash.on(devices[0].device_kind)
    costs = hlo.count(compiled.text, dict(mesh.shape), {"fwd": kernel.block, "dkv": kernel.block_grad})
    step_tokens = task.batch_rows * model.context_tokens
    useful = step_tokens * model.flops_per_token(model.context_tokens) / len(devices)
    for line in report.lines(compiled, costs, chip, len(devices), hosts, model.num_params, useful, step_tokens, experiment.run.steps):
        print(line)


def _proposal(experiment: config.Experiment, devices: list, slices: int) -> str:
    """The first mesh, or else smaller batch, that the compiler fits."""
    for mesh, rows in _candidates(experiment.task.batch_rows, experiment.run.mesh, experiment.task.model, len(devices), slices):
        run, task = dataclasses.replace(experiment.run, mesh=mesh), dataclasses.replace(experiment.task, batch_rows=rows)
        change = f"run.mesh='{','.join(map(str, mesh)).join('()')}' task.batch_rows={rows}"
        print(f"trying {change}", flush=True)
        try:
            compiler.compile_step(dataclasses.replace(experiment, run=run, task=task), parallel.mesh(mesh, devices))
        except (compiler.DoesNotFit, errors.InputError):
            continue
        return f"this fits: {change}"
    return "no mesh and no smaller batch fits: use more chips, or a smaller model or context"


def _candidates(rows: int, now: tuple[int, ...], model: decoder.DecoderConfig, chips: int, slices: int) -> Iterator[
        tuple[tuple[int, int, int, int], int]]:
    """Meshes for these rows, then for fewer, that cut what they cut evenly.

    Weights are stored by as many chips as the width can be cut over; data, along which slices lie, is what is left. How many
    chips share a row changes little, for all hold as many ids: few sizes of context are tried, and the smallest for fewer rows.
    """
    refused = now[1:], rows  # a data of 0 takes what is left
    even = math.gcd(model.heads, model.hidden_width, model.vocab_size, model.kv_heads if model.kv_heads > 1 else 0, chips // slices)
    while rows:
        for tensor in (size for size in TENSOR if even % size == 0):
            data = next(n for n in range(slices, chips + 1, slices)
                        if chips % (n * tensor) == 0 and model.width % (chips // (n * tensor)) == 0)
            storing = chips // (data * tensor)
            contexts = [2**n for n in range(storing.bit_length()) if storing % 2**n == 0 and rows % (data * storing // 2**n) == 0]
            for context in contexts[:CONTEXTS if rows == refused[1] else 1]:
                mesh = (data, storing // context, tensor, context)
                if (mesh[1:], rows) != refused:
                    yield mesh, rows
        rows //= 2


if __name__ == "__main__":
    errors.run(main)
