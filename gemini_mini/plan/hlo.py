"""Counts what a compiled program does, from its text.

XLA's own counters count the body of a loop once and a Pallas kernel as nothing: a scanned decoder
comes out a tenth of its size. Here loops are multiplied by their trip counts and the attention kernels
counted by their shapes. The text is the scheduled program of one chip, so what it says of the links
is what travels, and a collective split into start and done is one that runs beside other work.
Between slices the compiler hands arrays to the hosts, whose network adds them up.
Next: report.py.
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32, "u32": 32,
        "f32": 32, "s64": 64, "u64": 64, "f64": 64}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota", "opt-barrier",
        "while", "conditional", "call", "copy-done", "slice-done", "async-start", "async-done", "async-update",
        "copy-start", "slice-start", "send", "send-done", "recv", "recv-done", *COLLECTIVES, *(f"{c}-start" for c in COLLECTIVES), *(f"{c}-done" for c in COLLECTIVES)}
VIEWS = ("parameter", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "while", "conditional", "call")  # of arrays made elsewhere
WORK = ("fusion", "custom-call", "conditional", "while", "dot", "convolution")


class Shape(NamedTuple):
    """One array of an instruction's type."""

    dtype: str
    dims: tuple[int, ...]
    is_on_chip: bool  # in vector memory, so that it costs no traffic

    @property
    def size_bytes(self) -> int:
        return math.prod(self.dims) * BITS.get(self.dtype, 0) // 8


def shapes(text: str) -> list[Shape]:
    """The arrays of a type such as "(f32[8,128]{1,0:T(8,128)S(1)}, s32[])"."""
    found = re.findall(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", text)
    return [Shape(dtype, _ints(dims), "S(" in layout) for dtype, dims, layout in found if dtype in BITS]


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(",") if x.strip())


class Instruction(NamedTuple):
    """One line of a computation: `name = type op(operands), rest`."""

    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    rest: str

    def attribute(self, name: str) -> str | None:
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None


class Program:
    """The computations of a program's text, by name."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, current = "", None
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
                current = self.computations.setdefault(header[2], {})
                self.entry = header[2] if header[1] else self.entry
            elif line == "}":  # a kernel's own text may run over lines that end in one
                current = None
            elif current is not None and (found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line)):
                current[found[1]] = _instruction(found[1], found[2])

    def root(self, computation: str) -> Instruction:
        return list(self.computations[computation].values())[-1]


def _instruction(name: str, text: str) -> Instruction:
    kind, rest = _balanced(text) if text.startswith("(") else text.split(" ", 1)
    op = re.match(r"\s*([\w\-]+)", rest)[1]
    arguments, rest = _balanced(rest[rest.index("("):])
    return Instruction(name, kind, op, tuple(re.findall(r"%([\w.\-]+)", arguments)), arguments + rest)


def _balanced(text: str) -> tuple[str, str]:
    """The parenthesised start of `text`, and what follows."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: place + 1], text[place + 1 :]
    return text, ""


class Traffic(NamedTuple):
    """Bytes a chip sends for a kind of collective over some mesh axes, and those nothing runs beside."""

    sent: float
    exposed: float


@dataclass
class Costs:
    """What one chip does in one step."""

    flops: float = 0.0  # of matrix products, kernels among them
    kernel_flops: float = 0.0
    memory_bytes: float = 0.0  # moved between memory and chip, kernels' own re-reading left out
    cycles: float = 0.0  # the compiler's estimate for all but kernels and links
    links: dict[tuple[str, str], Traffic] = field(default_factory=lambda: defaultdict(lambda: Traffic(0.0, 0.0)))
    host_bytes: float = 0.0  # handed to the network between slices
    loops: list[tuple[str, int]] = field(default_factory=list)
    unknown_loops: int = 0  # counted once
    unknown_kernels: Counter = field(default_factory=Counter)  # counted as nothing

    @property
    def sent_bytes(self) -> float:
        return sum(t.sent for t in self.links.values())

    @property
    def exposed_bytes(self) -> float:
        return sum(t.exposed for t in self.links.values())


def count(text: str, mesh_shape: dict[str, int], causal_blocks: dict[str, int]) -> Costs:
    """The costs of a program for a mesh; `causal_blocks` are the key blocks of the attention kernels by part of their name."""
    return _Counter(Program(text), mesh_shape, causal_blocks).costs


def largest(text: str, count: int = 5) -> list[tuple[int, int, str]]:
    """(bytes, how many; type, sides and what first makes it) of the largest arrays that a program makes; what stays within a fusion is none."""
    program, found, makers = Program(text), Counter(), {}
    fused = {i.attribute("calls") for here in program.computations.values() for i in here.values() if i.op == "fusion"}
    for name in program.computations.keys() - fused:
        for i in program.computations[name].values():
            if i.op not in VIEWS and not i.op.endswith("-start"):
                for shape in shapes(i.type):
                    found[shape] += not shape.is_on_chip
                    if made := re.search(r'op_name="([^"]*)"', i.rest):
                        makers.setdefault(shape, made[1].removeprefix("jit(step)/"))
    told = lambda shape: f"{shape.dtype}{list(shape.dims)}" + (f" {makers[shape]}" if shape in makers else "")
    return sorted(((s.size_bytes, n, told(s)) for s, n in found.items() if n), reverse=True)[:count]


class _Counter:
    def __init__(self, program: Program, mesh_shape: dict[str, int], causal_blocks: dict[str, int]):
        self.program, self.mesh_shape, self.causal_blocks, self.costs = program, mesh_shape, causal_blocks, Costs()
        self.seen: set[tuple[str, str]] = set()
        self.loop = ""  # the body that is being walked
        self.walk(program.entry, 1.0)

    def walk(self, computation: str, times: float, fused: bool = False, beside: bool = False) -> None:
        """Count a computation that runs `times`; `beside` other work when an async instruction calls it."""
        here = self.program.computations[computation]
        for i in here.values():
            if not fused:
                self._count_time(here, i, times)
            if i.op == "while":
                self._walk_loop(here, i, times, fused, beside)
            elif i.op == "conditional":
                branches = re.findall(r"%([\w.\-]+)", (re.search(r"branch_computations=\{([^}]*)\}", i.rest) or [""] * 2)[1])
                branches = branches or [i.attribute("true_computation"), i.attribute("false_computation")]
                for branch in branches:  # of a zigzag's two, every chip takes one, and they cost the same
                    self.walk(branch, times / len(branches), fused, beside)
            elif i.op in ("fusion", "call", "async-start"):
                called = i.attribute("calls") or i.attribute("to_apply")
                asynchronous = i.op == "async-start" or "async_collective" in called or i.name.startswith("async-collective")
                self.walk(called, times, fused or i.op == "fusion", beside or asynchronous)
            elif i.op == "dot":
                contracted = _ints(re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)[1])
                left = self._operand(here, i, 0)
                self.costs.flops += times * 2 * math.prod(shapes(i.type)[0].dims) * math.prod(left.dims[d] for d in contracted)
            elif i.op == "convolution":
                self.costs.flops += times * _convolution_flops(i, self._operand(here, i, 0), self._operand(here, i, 1))
            elif i.op == "custom-call" and 'custom_call_target="tpu_custom_call"' in i.rest:
                self._count_kernel(here, i, times)
            elif i.op == "send" and "is_host_transfer=true" in i.rest:
                self.costs.host_bytes += times * self._operand(here, i, 0).size_bytes
            elif i.op.removesuffix("-start") in COLLECTIVES:
                self._count_collective(here, i, times, beside or _is_overlapped(here, i))

    def _operand(self, here: dict[str, Instruction], i: Instruction, n: int) -> Shape:
        return shapes(here[i.operands[n]].type)[0]

    def _walk_loop(self, here, i: Instruction, times: float, fused: bool, beside: bool) -> None:
        trips = self._trips(here, i)
        self.costs.unknown_loops += trips is None
        self.costs.loops.append((i.attribute("body"), trips or 1))
        outer, self.loop = self.loop, i.attribute("body")
        self.walk(self.loop, times * (trips or 1), fused, beside)
        self.loop = outer

    def _trips(self, here: dict[str, Instruction], loop: Instruction) -> int | None:
        """How often a loop from a constant to a constant runs."""
        if known := re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.rest):
            return int(known[1])
        condition = self.program.computations[loop.attribute("condition")]
        test = self.program.root(loop.attribute("condition"))
        if test.op != "compare" or "direction=LT" not in test.rest:
            return None
        counter, limit = condition[test.operands[0]], _constant(condition, test.operands[1])
        place = re.search(r"index=(\d+)", counter.rest)
        if limit is None or not place:
            return None
        initial, body = here[loop.operands[0]], self.program.computations[loop.attribute("body")]
        start = _constant(here, initial.operands[int(place[1])]) if initial.op == "tuple" else 0
        following = _through_copies(body, self.program.root(loop.attribute("body")).operands[int(place[1])])
        steps = [_constant(body, name) for name in following.operands] if following.op == "add" else []
        step = next((s for s in steps if s), 1)
        return max(0, -(-(limit - (start or 0)) // step))

    def _count_kernel(self, here, i: Instruction, times: float) -> None:
        """Splash attention: two products forward, five in the fused backward kernel, half of a causal square."""
        part = next((part for part in self.causal_blocks if part in i.name), None)
        arrays = [s for s in (shapes(here[name].type)[0] for name in i.operands) if s.dtype in ("bf16", "f32") and len(s.dims) > 1]
        if part is None or "splash" not in i.name:
            self.costs.unknown_kernels[i.name] += 1
            return
        q, k = arrays[:2]
        rows, columns = q.dims[-2], k.dims[-2]
        block = min(self.causal_blocks[part], columns)
        share = (1 + block / columns) / 2 if rows == columns else 1.0  # ring.py cuts no causal pair that is not square
        flops = times * share * (2 if part == "fwd" else 5) * 2 * math.prod(q.dims) * columns
        self.costs.flops += flops
        self.costs.kernel_flops += flops

    def _count_collective(self, here, i: Instruction, times: float, beside: bool) -> None:
        channel = re.search(r"channel_id=(\d+)", i.rest)
        if beside and channel and not i.op.endswith("-start"):  # one collective spread over several fusions
            if (self.loop, channel[1]) in self.seen:
                return
            self.seen.add((self.loop, channel[1]))
        kind = i.op.removesuffix("-start")
        outputs = shapes(i.type)
        sizes = [s.size_bytes for s in outputs if s.size_bytes > 8] or [0]
        if i.op.endswith("-start") and kind in ("all-gather", "collective-permute"):  # its type lists inputs and outputs
            size = sum(sizes) / 2 if kind == "collective-permute" else max(sizes)
        else:
            size = sum(sizes)
        if kind == "collective-permute":
            pair = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", i.rest)
            members, sent = [int(pair[1]), int(pair[2])], size
        else:
            members = _group(i.rest) or list(range(math.prod(self.mesh_shape.values())))
            n = len(members)
            sent = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1}.get(kind, (n - 1) / n) * size
        key = (kind, self._axes(members))
        old = self.costs.links[key]
        self.costs.links[key] = Traffic(old.sent + times * sent, old.exposed + times * sent * (not beside))

    def _axes(self, members: list[int]) -> str:
        """Along which mesh axes a group of chips lies."""
        places = np.array(np.unravel_index(members, tuple(self.mesh_shape.values())))
        return "+".join(axis for axis, row in zip(self.mesh_shape, places, strict=True) if len(set(row)) > 1) or "none"

    def _count_time(self, here, i: Instruction, times: float) -> None:
        if (found := re.search(r'"estimated_cycles":"(\d+)"', i.rest)) and i.op != "while":
            self.costs.cycles += times * int(found[1])
        if i.op in FREE:
            return
        reads, written = [shapes(here[o].type) for o in i.operands if o in here], shapes(i.type)
        moved = [sum(s.size_bytes for s in arrays if not s.is_on_chip) for arrays in (*reads, written)]
        called = self.program.computations.get(i.attribute("calls") or "") if i.op == "fusion" else None
        if i.op == "dynamic-slice":
            moved = [2 * moved[-1]]
        elif i.op == "dynamic-update-slice":
            moved = [2 * moved[1]]
        elif called:
            moved = [min(size, part) for size, part in zip(moved, _touched(called), strict=False)]
        self.costs.memory_bytes += times * sum(moved)


def _is_overlapped(here: dict[str, Instruction], start: Instruction) -> bool:
    """Whether work stands between the start of a collective and its end in the schedule."""
    order = list(here.values())
    after = order[order.index(start) + 1 :]
    ends = (n for n, i in enumerate(after) if i.op.endswith("-done") and start.name in i.operands)
    return start.op.endswith("-start") and any(i.op in WORK for i in after[: next(ends, 0)])


def _touched(fused: dict[str, Instruction]) -> list[float]:
    """Bytes a fusion reads of each operand, then those it writes: of slices of a large array only the slices."""
    parameters = sorted((int(re.search(r"\((\d+)\)", i.rest)[1]), i) for i in fused.values() if i.op == "parameter")
    sizes = []
    for _, parameter in parameters:
        users = [u for u in fused.values() if parameter.name in u.operands]
        if users and all(u.op in ("dynamic-slice", "dynamic-update-slice") and u.operands[0] == parameter.name for u in users):
            sizes.append(float(sum(shapes(u.type)[0].size_bytes for u in users if u.op == "dynamic-slice")))
        else:
            sizes.append(math.inf)
    root = _through_copies(fused, list(fused)[-1])
    sizes.append(float(shapes(fused[root.operands[1]].type)[0].size_bytes) if root.op == "dynamic-update-slice" else math.inf)
    return sizes


def _through_copies(here: dict[str, Instruction], name: str) -> Instruction:
    i = here[name]
    while i.op in ("copy", "bitcast", "convert") and i.operands[0] in here:
        i = here[i.operands[0]]
    return i


def _constant(here: dict[str, Instruction], name: str) -> int | None:
    i = _through_copies(here, name)
    found = re.match(r"\((-?\d+)\)", i.rest) if i.op == "constant" else None
    return int(found[1]) if found else None


def _group(rest: str) -> list[int]:
    """The first group of devices of a collective, in any of XLA's three ways to write them; empty for all devices."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return list(_ints(found[1]))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        return _iota(found[3], found[4]).reshape(int(found[1]), int(found[2]))[0].tolist()
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        order = re.search(r"device_ids=\(?\[([\d,]+)\](?:T\(([\d,]+)\))?", found[2])
        ids = (_iota(*order.groups()) if order else np.arange(math.prod(sizes.values()))).reshape(*sizes.values())
        at = []
        for axis, size in sizes.items():
            # A part of an axis reads 'axis':(before)size: `size` members, `before * size` of the axis in all.
            part = re.search(rf"'{axis}'(?::\((\d+)\)(\d+))?", found[3])
            stride = size // (int(part[1]) * int(part[2])) if part and part[1] else 1
            count = int(part[2]) if part and part[2] else size
            at.append(slice(0, count * stride, stride) if part else slice(1))
        return ids[tuple(at)].ravel().tolist()
    return []


def _iota(sizes: str, order: str | None) -> np.ndarray:
    ids = np.arange(math.prod(_ints(sizes))).reshape(_ints(sizes))
    return ids.transpose(_ints(order)) if order else ids


def _convolution_flops(i: Instruction, left: Shape, right: Shape) -> float:
    """TPUs write matrix products as convolutions: two per output and kernel element that meet."""
    left_dims, right_dims, out_dims = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest).groups()
    out = shapes(i.type)[0]
    window = dict(entry.split("=", 1) for entry in (re.search(r"window=\{([^}]*)\}", i.rest) or ["", ""])[1].split())
    spatial = sorted(set(left_dims) - {"b", "f"})
    def of(name, default):
        return [tuple(map(int, x.split("_"))) for x in window[name].split("x")] if name in window else [default] * len(spatial)
    pairs = 1
    for axis, (size,), (low, _), (stride,), (spread,), (step,) in zip(
            spatial, of("size", (1,)), of("pad", (0, 0)), of("stride", (1,)), of("lhs_dilate", (1,)), of("rhs_dilate", (1,)), strict=True):
        length = (left.dims[left_dims.index(axis)] - 1) * spread + 1
        at = np.arange(out.dims[out_dims.index(axis)])[:, None] * stride - low + np.arange(size) * step
        pairs *= int(((at >= 0) & (at < length) & (at % spread == 0)).sum())
    return 2.0 * out.dims[out_dims.index("b")] * out.dims[out_dims.index("f")] * right.dims[right_dims.index("i")] * pairs
