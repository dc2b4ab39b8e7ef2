"""A plan's laws: loops multiplied out, links counted by axis, refusals that say what to do."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemini_mini import config, errors, parallel
from gemini_mini.model import decoder
from gemini_mini.plan import __main__ as command
from gemini_mini.plan import budget, compiler, hlo, launch, report, topology

ROOT = Path(__file__).parent.parent
MESH = {"data": 1, "fsdp": 4, "tensor": 1, "context": 2}
BLOCKS = {"fwd": 128, "dkv": 256}

# What the TPU compiler writes and the CPU's does not, cut to the bone: a loop whose trips are read off its condition,
# a product as a convolution, a kernel whose own text runs over lines, a ring step with work beside it and one without.
TPU_TEXT = """HloModule step, is_scheduled=true

%fused.1 (p.0: f32[6,256,128], p.1: s32[]) -> f32[1,256,128] {
  %p.0 = f32[6,256,128]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  ROOT %slice = f32[1,256,128]{2,1,0} dynamic-slice(%p.0, %p.1), dynamic_slice_sizes={1,256,128}
}

%async_collective_fusion.1 (q.0: bf16[32,64]) -> bf16[128,64] {
  %q.0 = bf16[32,64]{1,0} parameter(0)
  ROOT %gather.1 = bf16[128,64]{1,0} all-gather(%q.0), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}
}

%fused.2 (r.0: bf16[32,64]) -> bf16[128,64] {
  %r.0 = bf16[32,64]{1,0} parameter(0)
  ROOT %gather.2 = bf16[128,64]{1,0} all-gather(%r.0), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}
}

%body (state: (s32[], f32[6,256,128], bf16[4,512,128], bf16[512,128])) -> (s32[], f32[6,256,128], bf16[4,512,128], bf16[512,128]) {
  %state = (s32[], f32[6,256,128]{2,1,0}, bf16[4,512,128]{2,1,0}, bf16[512,128]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %stack = f32[6,256,128]{2,1,0} get-tuple-element(%state), index=1
  %q = bf16[4,512,128]{2,1,0} get-tuple-element(%state), index=2
  %k = bf16[512,128]{1,0} get-tuple-element(%state), index=3
  %two = s32[] constant(2)
  %next = s32[] add(%n, %two)
  %piece = f32[1,256,128]{2,1,0} fusion(%stack, %n), kind=kLoop, calls=%fused.1, backend_config={"estimated_cycles":"1000"}
  %send = (bf16[512,128]{1,0}, bf16[512,128]{1,0}, u32[]) collective-permute-start(%k), channel_id=1, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  %splash_mqa_fwd_segmented.3 = (bf16[4,512,128]{2,1,0}, f32[4,512]{1,0}) custom-call(%q, %k, %k), custom_call_target="tpu_custom_call", kernel_metadata={
{"a": "b"
}}, backend_config={"x":"y"}
  %sent = bf16[512,128]{1,0} collective-permute-done(%send)
  %again = (bf16[512,128]{1,0}, bf16[512,128]{1,0}, u32[]) collective-permute-start(%sent), channel_id=2, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  %back = bf16[512,128]{1,0} collective-permute-done(%again)
  ROOT %out = (s32[], f32[6,256,128]{2,1,0}, bf16[4,512,128]{2,1,0}, bf16[512,128]{1,0}) tuple(%next, %stack, %q, %back)
}

%condition (state.1: (s32[], f32[6,256,128], bf16[4,512,128], bf16[512,128])) -> pred[] {
  %state.1 = (s32[], f32[6,256,128]{2,1,0}, bf16[4,512,128]{2,1,0}, bf16[512,128]{1,0}) parameter(0)
  %m = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(13)
  ROOT %less = pred[] compare(%m, %limit), direction=LT
}

ENTRY %main (a.0: f32[6,256,128], a.1: bf16[4,512,128], a.2: bf16[512,128], a.3: bf16[32,64]) -> f32[256,32] {
  %a.0 = f32[6,256,128]{2,1,0} parameter(0)
  %a.1 = bf16[4,512,128]{2,1,0} parameter(1)
  %a.2 = bf16[512,128]{1,0} parameter(2)
  %a.3 = bf16[32,64]{1,0} parameter(3)
  %one = s32[] constant(1)
  %start = (s32[], f32[6,256,128]{2,1,0}, bf16[4,512,128]{2,1,0}, bf16[512,128]{1,0}) tuple(%one, %a.0, %a.1, %a.2)
  %loop = (s32[], f32[6,256,128]{2,1,0}, bf16[4,512,128]{2,1,0}, bf16[512,128]{1,0}) while(%start), condition=%condition, body=%body
  %async-collective-start.1 = bf16[128,64]{1,0} fusion(%a.3), kind=kLoop, calls=%fused.2
  %first = token[] after-all()
  %handed = (bf16[32,64]{1,0}, u32[], token[]) send(%a.3, %first), channel_id=8, is_host_transfer=true, frontend_attributes={a="b"}
  %part = bf16[128,64]{1,0} fusion(%a.3), kind=kLoop, calls=%async_collective_fusion.1
  %x = f32[256,16,1]{2,1,0:T(8,128)S(1)} iota(), iota_dimension=0
  %w = f32[16,8,4]{2,1,0:T(8,128)S(1)} iota(), iota_dimension=0
  ROOT %product = f32[256,8,4]{2,1,0:T(8,128)S(1)} convolution(%x, %w), window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=bf0_io0->bf0
}
"""

# Of the largest arrays the parameter is another's, one is never stored, one is on chip; two outputs of a fusion are made.
LARGE_TEXT = """HloModule step

%fused.1 (p: bf16[2,512,64]) -> (bf16[2,512,64], f32[128,64]) {
  %p = bf16[2,512,64]{2,1,0} parameter(0)
  %wide = f32[2,512,512]{2,1,0} broadcast(%p), dimensions={0,1}
  %narrow = bf16[2,512,64]{2,1,0} convert(%p)
  %other = f32[128,64]{1,0} broadcast(%p), dimensions={0}
  ROOT %both = (bf16[2,512,64]{2,1,0}, f32[128,64]{1,0}) tuple(%narrow, %other)
}

ENTRY %main (a: f32[9,512,512], b: bf16[2,512,64]) -> bf16[6,2,512,64] {
  %a = f32[9,512,512]{2,1,0} parameter(0)
  %b = bf16[2,512,64]{2,1,0} parameter(1)
  %view = f32[81,512,512]{2,1,0} bitcast(%a)
  %near = f32[3,512,512]{2,1,0:T(8,128)S(1)} copy(%a)
  %made = (bf16[2,512,64]{2,1,0}, f32[128,64]{1,0}) fusion(%b), kind=kLoop, calls=%fused.1
  %again = bf16[2,512,64]{2,1,0} copy(%b)
  ROOT %stack = bf16[6,2,512,64]{3,2,1,0} broadcast(%again), dimensions={1,2,3}, metadata={op_name="jit(step)/jvp(Decoder)/stack" source_line=7}
}
"""
LARGE = [(6 * 2 * 512 * 64 * 2, 1, "bf16[6, 2, 512, 64] jvp(Decoder)/stack"), (2 * 512 * 64 * 2, 2, "bf16[2, 512, 64]"), (128 * 64 * 4, 1, "f32[128, 64]")]


def test_the_tpu_compilers_forms_are_read():
    costs = hlo.count(TPU_TEXT, MESH, BLOCKS)
    assert costs.loops == [("body", 6)] and not costs.unknown_loops  # 1, 3, 5, 7, 9, 11
    causal = (1 + 128 / 512) / 2  # blocks of 128 keys: the diagonal ones are computed whole
    assert costs.kernel_flops == 6 * 2 * causal * 2 * 4 * 512 * 128 * 512
    assert costs.flops - costs.kernel_flops == 2 * 256 * 16 * 8 * 4
    assert costs.cycles == 6 * 1000
    gather, hop = 3 / 4 * 128 * 64 * 2, 512 * 128 * 2
    assert costs.links == {("all-gather", "fsdp"): (gather, 0), ("collective-permute", "context"): (6 * 2 * hop, 6 * hop)}
    assert costs.host_bytes == 32 * 64 * 2
    queries, piece = 4 * 512 * 128 * 2, 256 * 128 * 4  # of the stack a slice is read; what is on chip costs nothing
    body = (2 * piece + 4) + (queries + 2 * hop + queries + 4 * 512 * 4) + 3 * 4
    assert costs.memory_bytes == 6 * body + 2 * (32 + 128) * 64 * 2


@pytest.mark.parametrize("text, members", [
    ("replica_groups={{0,2,4,6},{1,3,5,7}}", [0, 2, 4, 6]),
    ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", [0, 2, 4, 6]),
    ("replica_groups=mesh['x'=2,'y'=4] {'y'}", [0, 1, 2, 3]),
    ("replica_groups=mesh['x'=8] {'x':(2)2}", [0, 2]),
    ("replica_groups=mesh['x'=8] {'x':(1)2}", [0, 4]),
    ("no groups", []),
])
def test_groups_of_devices_in_every_notation(text, members):
    assert hlo._group(text) == members


def test_loops_and_links_of_a_compiled_program_are_multiplied_out():
    devices = parallel.mesh((1, 4, 1, 2))

    def program(x, w):
        def inner(x, _):
            return jax.lax.psum(x @ w, "fsdp") * 0.1, None
        def outer(x, _):
            return jax.lax.scan(inner, x, length=3)[0], None
        return jax.lax.scan(outer, x, length=5)[0]

    replicated = jax.sharding.PartitionSpec()
    sharded = jax.jit(jax.shard_map(program, mesh=devices, in_specs=(replicated, replicated), out_specs=replicated, check_vma=False))
    compiled = sharded.lower(jnp.ones((64, 128)), jnp.ones((128, 128))).compile()
    costs = hlo.count(compiled.as_text(), dict(devices.shape), BLOCKS)
    assert costs.flops == 15 * 2 * 64 * 128 * 128 > 10 * compiled.cost_analysis()["flops"]
    assert {key: t.sent for key, t in costs.links.items()} == {("all-reduce", "fsdp"): 15 * 2 * 3 / 4 * 64 * 128 * 4}


def as_good(params: float, factor: float) -> float:
    """The compute-optimal size of the same loss, by a search."""
    law = lambda n, d: 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
    sizes = np.geomspace(1e8, 1e12, 400_000)
    return sizes[np.argmin(np.abs(law(sizes, 20 * sizes) - law(params, factor * 20 * params)))]


def test_budgets_against_a_search():
    params, factor = 1.8e9, 20.0
    b, equal = budget.overtrained(params, factor), as_good(params, factor)
    assert b.tokens == factor * 20 * params and abs(b.optimal_params / equal - 1) < 1e-3
    assert abs(b.extra_flops / (params * b.tokens / (20 * equal**2)) - 1) < 1e-2
    alone = budget.overtrained(params, 1.0)
    assert abs(alone.optimal_params / params - 1) < 1e-6 and abs(alone.extra_flops - 1) < 1e-6


def test_a_report_says_what_was_counted():
    memory = {"weights": 3 * 2**29, "optimizer": 3 * 2**30, "batch": 2**28, "temporaries": 2**33, "peak": 11 * 2**30}
    links = {("all-gather", "fsdp"): hlo.Traffic(9e9, 1.7e9), ("all-reduce", "data"): hlo.Traffic(18e9, 1e9), ("all-to-all", "tensor"): hlo.Traffic(5e5, 0)}
    costs = hlo.Costs(flops=300e12, kernel_flops=60e12, memory_bytes=400e9, cycles=1.5e9, links=links, host_bytes=0.1e9, unknown_loops=1)
    chip = topology.Chip(peak_flops=200e12, memory_bytes_per_s=800e9, link_bytes_per_s=50e9, clock_hz=1e9, torus=2, whole=16)
    compiled, ids, params = compiler.Compiled(LARGE_TEXT, 61.0, memory), 2**20, 1.5e9
    said = [" ".join(line.split()) for line in report.lines(compiled, costs, chip, 16, 4, params, 240e12, ids, 100_000)]
    step_s = 1.5 + 60 / 200 / 0.6 + 2.7005 / 100  # cycles, kernels at their share of the peak, two links with nothing beside
    days = lambda factor: factor * 20 * params * step_s / ids / 86_400
    budgets = [f"{factor:.1f} x {name} {factor * 30:.1f}B tokens, {days(factor):.1f} days (estimate); as good as {as_good(params, factor) / 1e9:.2f}B "
               f"compute-optimal, for {factor * (params / as_good(params, factor))**2:.2f} x its FLOPs"
               for factor, name in ((1.0, "compute-optimal"), (1e5 * ids / 30e9, "run.steps"), (10.0, "small model"), (50.0, "small model"))]
    assert said == [
        "compiled in 61 s", "memory a chip, GiB", "weights 1.50", "optimizer 3.00", "batch 0.25", "temporaries 8.00",
        "together 12.75 11.00 at one time, by the compiler", *(f"{size / 2**30:.2f} x {n} {what}" for size, n, what in LARGE),
        "work a chip and step", "useful 240.0 TFLOP causal attention, nothing done twice",
        "executed 300.0 TFLOP 60.0 of them attention kernels; +25%", "memory 400.0 GB", "links 27.00 GB, 2.70 with nothing beside",
        "all-reduce over data 18.00 GB, 1.00 with nothing beside", "all-gather over fsdp 9.00 GB, 1.70 with nothing beside",
        "between slices 0.100 GB, 0.40 a host: to pass within the step estimated below takes 1.6 Gbit/s each way",
        "time of a step", "at least products 1500 ms, memory 500 ms, links 270 ms", "bound MFU 80.0%, set by the products",
        f"estimate 2027 ms, MFU {1.2 / step_s:.1%}, with kernels at 60% of peak assumed",
        f"{ids / step_s / 1e6:.2f}M tokens/s, {ids / step_s * 86_400 / 1e9:.1f}B tokens a day (estimate)",
        "not counted 1 loops (once each), kernels {}", "tokens for 1.50B parameters; 16 chips", *budgets]


@pytest.mark.parametrize("name", ["v5e", "v5e:4x4x4", "v9:4x4", "v4:16x16", "v5litepod-16"])
def test_unknown_topologies_are_refused(name):
    with pytest.raises(errors.InputError, match="--plan: must be v4, v5e"):
        topology.chip(name)


def test_only_what_can_be_planned_is():
    with pytest.raises(errors.InputError, match="only the decoder"):
        compiler.unread(config.load(str(ROOT / "configs/image_tokenizer.py"), []))
    with pytest.raises(errors.InputError, match="task.model.vocab_size=40960"):
        compiler.unread(config.load(str(ROOT / "configs/demo.py"), []))


SMALL = ["task.model.head_dim=32", "task.model.depth=2", "task.model.aspect=32", "task.model.hidden=64", "task.model.vocab_size=256",
         "task.model.context_tokens=512", "task.batch_rows=8", "task.model.attention=blockwise", "optim.kind=adamw"]


@pytest.mark.slow
def test_the_real_step_is_compiled_from_shapes_alone():
    experiment = compiler.unread(config.load(str(ROOT / "configs/nano1.py"), SMALL))
    memory = compiler.compile_step(experiment, parallel.mesh((1, 4, 1, 2))).memory
    vectors = 2 * (2 * 64 + 2 * 32) + 64
    assert memory["weights"] == 4 * ((experiment.task.model.num_params - vectors) // 8 + vectors)  # matrices are cut over fsdp and context
    assert memory["batch"] == 6 * 8 * 512 * 4 // 8


def test_memory_of_the_whole_step_grows_with_the_row():
    def compiled(tokens: int) -> compiler.Compiled:
        row = [*SMALL, f"task.model.context_tokens={tokens}", "task.batch_rows=1"]
        return compiler.compile_step(compiler.unread(config.load(str(ROOT / "configs/nano1.py"), row)), parallel.mesh((1, 1, 1, 1), jax.devices()[:1]))

    short, long = compiled(1024), compiled(4096)
    grow = long.memory["temporaries"] / short.memory["temporaries"]
    assert grow < 4.5, f"four times the row took {grow:.1f} times the memory"
    assert not [s for s in hlo.shapes(long.text) if sum(side >= 4096 for side in s.dims) > 1]


def refuse(monkeypatch, message: str, text: str = "") -> None:
    def compile(self, options):
        Path(options["xla_dump_to"], "module_0003.jit_on_mesh.after_optimizations.txt").write_text(text)
        raise jax.errors.JaxRuntimeError(message)
    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)


def test_a_refusal_names_the_largest_arrays_of_a_chip(monkeypatch):
    refuse(monkeypatch, "RESOURCE_EXHAUSTED: the total memory required (19.19G) exceeds available HBM (15.75G)", LARGE_TEXT)
    with pytest.raises(compiler.DoesNotFit) as refusal:
        compiler.compile_step(compiler.unread(config.load(str(ROOT / "configs/nano1.py"), SMALL)), parallel.mesh((1, 4, 1, 2)))
    assert (refusal.value.needed, refusal.value.there) == ("19.19G", "15.75G")
    assert refusal.value.arrays == LARGE


def test_the_program_that_a_compiler_leaves_is_of_one_chip(tmp_path):
    """Sides that are cut over any axis of the mesh are, and others of the same length are not."""
    devices = parallel.mesh((1, 2, 2, 2))
    place = lambda *cut: jax.sharding.NamedSharding(devices, jax.P(*cut))
    x, w = (jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=place(*cut)) for cut in (("fsdp",), (None, "tensor")))
    jax.jit(lambda x, w: x @ w, out_shardings=place("fsdp", "tensor")).lower(x, w).compile({"xla_dump_to": str(tmp_path)})
    size, _, what = hlo.largest(compiler._refused(tmp_path))[0]
    assert size == 32 * 32 * 4 and what.startswith("f32[32, 32]")


def test_a_kernel_that_is_too_large_is_no_lack_of_memory(monkeypatch):
    refuse(monkeypatch, "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space vmem. "
                        "Used 16.44M of 16.00M vmem. Exceeded vmem capacity by 448.0K.")
    with pytest.raises(errors.InputError, match="Used 16.44M of 16.00M.*smaller blocks"):
        compiler.compile_step(compiler.unread(config.load(str(ROOT / "configs/nano1.py"), SMALL)), parallel.mesh((1, 4, 1, 2)))


@pytest.mark.parametrize("needs, proposed", [
    (lambda rows, context: context >= 4, "this fits: run.mesh='(1,2,1,4)' task.batch_rows=8"),
    (lambda rows, context: rows <= 2, "this fits: run.mesh='(1,2,1,4)' task.batch_rows=2"),
    (lambda rows, context: False, "no mesh and no smaller batch fits"),
])
def test_a_refusal_proposes_the_first_mesh_that_compiles_and_then_fewer_rows(needs, proposed, monkeypatch):
    def compile_step(experiment, devices):
        if not needs(experiment.task.batch_rows, devices.shape["context"]):
            raise compiler.DoesNotFit("", [])
    monkeypatch.setattr(compiler, "compile_step", compile_step)
    experiment = compiler.unread(config.load(str(ROOT / "configs/nano1.py"), [*SMALL, "run.mesh=(0,8,1,1)"]))
    assert command._proposal(experiment, jax.devices(), 1).startswith(proposed)


def model(name: str, *changes: str) -> decoder.DecoderConfig:
    return config.load(str(ROOT / f"configs/{name}.py"), list(changes)).task.model


def test_what_was_refused_is_not_tried_again_but_with_fewer_rows():
    tried = list(command._candidates(8, (0, 8, 1, 1), model("nano1"), 8, 1))
    assert ((1, 8, 1, 1), 8) not in tried and tried[0] == ((1, 4, 1, 2), 8)
    assert not {((1, 8, 1, 1), 4)} & set(tried), "4 rows are too few for 8"
    assert ((1, 4, 1, 2), 4) in tried
    assert ((1, 4, 1, 1), 4) in list(command._candidates(8, (0, 4, 1, 1), model("nano1"), 4, 1))


@pytest.mark.parametrize("name, changes, rows, now, chips, slices, tensors", [
    ("nano1", [], 512, (0, 256, 1, 1), 512, 2, {1, 2}),  # 18 heads
    ("nano2", [], 256, (0, 256, 1, 1), 256, 1, {1, 2, 4}),
    ("nano2", ["task.model.kv_heads=2"], 256, (0, 256, 1, 1), 256, 1, {1, 2}),
    ("nano2", [], 192, (0, 64, 1, 1), 192, 3, {1, 2, 4}),
    ("pro", [], 512, (0, 128, 1, 8), 4096, 1, {1, 2, 4}),
    ("nano1", [], 1024, (0, 256, 1, 1), 4096, 1, {1, 2}),  # 2,304 is no multiple of 4,096, but of 256
])
def test_a_search_is_short_and_tries_what_can_be_cut(name, changes, rows, now, chips, slices, tensors):
    shape = model(name, *changes)
    tried = list(command._candidates(rows, now, shape, chips, slices))
    for (data, fsdp, tensor, context), cut in tried:
        assert data * fsdp * tensor * context == chips and data % slices == 0 and cut % (data * fsdp) == 0
        assert shape.heads % tensor == shape.hidden % tensor == shape.vocab_size % tensor == 0
        apart = chips // slices // tensor
        assert fsdp * context == max(n for n in range(1, apart + 1) if apart % n == 0 and shape.width % n == 0), "as many as can be store weights"
    assert {mesh[2] for mesh, _ in tried} == tensors and {cut for _, cut in tried} >= {rows, rows // 2}
    assert len(set(tried)) == len(tried) <= 3 * (3 + np.log2(rows))


def test_of_two_slices_a_mesh_is_proposed_that_spans_both(monkeypatch):
    """What the real mesh refuses is no proposal."""
    chips = [mock.Mock(spec=jax.Device, slice_index=n // 4, platform="cpu") for n in range(8)]

    def compile_step(experiment, devices):
        assert [len({chip.slice_index for chip in replica.flat}) for replica in devices.devices] == [1, 1]
        if devices.shape["tensor"] == 1:
            raise compiler.DoesNotFit("", [])

    monkeypatch.setattr(compiler, "compile_step", compile_step)
    experiment = compiler.unread(config.load(str(ROOT / "configs/nano1.py"), [*SMALL, "run.mesh=(0,4,1,1)"]))
    assert command._proposal(experiment, chips, 2) == "this fits: run.mesh='(2,2,2,1)' task.batch_rows=8"


def test_rows_that_a_mesh_cannot_cut_are_refused():
    experiment = compiler.unread(config.load(str(ROOT / "configs/nano1.py"), [*SMALL, "task.batch_rows=6"]))
    for ids in (512, 514):
        task = dataclasses.replace(experiment.task, batch_rows=6 if ids == 512 else 8, model=dataclasses.replace(experiment.task.model, context_tokens=ids))
        with pytest.raises(errors.InputError, match=f"{task.batch_rows} rows of {ids} ids must divide by 4 and 4"):
            compiler.compile_step(dataclasses.replace(experiment, task=task), parallel.mesh((1, 4, 1, 2)))


@pytest.mark.parametrize("does, ends, told", [("kill -ABRT $$", errors.InputError, "compiler died of signal 6"), ("exit 2", SystemExit, "2")])
def test_a_compiler_that_dies_is_told_and_a_refusal_passed_on(does, ends, told, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{does}\n")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ends, match=told):
        launch.start([])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [
    ["--plan", "v5e:2x2", "run.mesh=(0,2,1,2)", *SMALL, "task.model.aspect=128", "task.model.head_dim=128", "task.model.attention=splash"],
    # Large blocks and many heads, where a kernel fills what fast memory it may.
    *(["--plan", chips, "run.mesh=(0,2,1,2)", "task.model.aspect=1152", "task.model.depth=2", "task.model.context_tokens=16384", "task.batch_rows=4"] for chips in ("v4:2x2x1", "v5e:2x2")),
])
def test_a_plan_for_chips_that_are_not_there(arguments):
    pytest.importorskip("libtpu")
    done = subprocess.run([sys.executable, "train.py", "configs/nano1.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "collective-permute over context" in done.stdout and re.search(r"estimate +\d+ ms, MFU", done.stdout)
