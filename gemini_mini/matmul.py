"""Matrix products that XLA does not make fast on a CPU: options, off unless asked for. Both need a C++ compiler.

    python train.py CONFIG run.products=bfloat16   on matrix units (AMX: Intel Xeons since 2023) or by vectors (AMD since Zen 4)
    python sample.py RUN --eight-bit PARTS         by weights of 8 bits, of which a fourth as many bytes are read

In the first, weights and activations stay float32. What is multiplied is rounded to bfloat16 and summed in float32, which
is also what a TPU does with float32 products unless told otherwise. The products are in matmul.cc: oneMKL, which has them for
matrix units, took up to twice as long for our shapes (EXPERIMENTS.md), and no library that pip installs alone has them for an AMD.
What would be written to memory between two products, and takes longer there than they do, never leaves the caches: attention
(attend.cc, model/flash.py), the MLP (gated.cc), the loss over the vocabulary (entropy.cc) and the norm of each row (norm.cc)
are functions of their own; so is Muon's Newton-Schulz (orthogonal.cc), of matrices so small that starting their products takes
longer than making them.
The second is for decoding, where every token reads all weights: quant.py makes them. Where the CPU multiplies whole numbers
(avx512_vnni) its activations are rounded to some 15 bits.
"""

import ctypes
import functools
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from gemini_mini import errors, files, parallel

Library = Literal["xla", "bfloat16"]
KINDS = {"amx_bf16": "open_units", "avx512_bf16": "open_vectors"}  # as Linux names what a CPU has, the faster first; of matmul.cc
UNIT = 16  # numbers of a vector in matmul.cc
MULTIPLE, PARTS = 32, 4  # of the axes of `gated` and `entropy`, and of the rows for whose parts they sum the weights' gradients
BLOCK = 512  # rows for which `normed` sums them
HANDLERS = "narrow", "attend", "attend_back", "gated", "gated_back", "entropy", "entropy_back", "norm", "norm_back", "orthogonal"
SOURCES = [Path(__file__).with_name(name) for name in ("matmul.cc", "attend.cc", "gated.cc", "entropy.cc", "norm.cc", "orthogonal.cc", "tiles.h")]
NARROW = jnp.bfloat16
_library: Library = "xla"


def use(library: Library) -> str:
    """Whose products programs have that are traced from now on in this process; says "xla", or by which of KINDS, made of what.

    Raises: InputError where a compiler, or what the CPU should have, is missing.
    """
    global _library
    made_by, has = "xla", cpu_info()
    if library == "bfloat16":
        made_by = next((flag for flag in KINDS if flag in has and open_narrow(flag)), "")
        if not made_by:
            raise errors.InputError(f"run.products=bfloat16: needs Linux, a CPU with {' or '.join(KINDS)} (in /proc/cpuinfo), and a "
                                    "compiler that knows it (g++ 11 or newer); leave it at xla")
    if library != _library:
        jax.clear_caches()  # what was traced with the other's
    _library = library
    return made_by if library == "xla" else f"{made_by} {_made_of()[:8]}"


def open_narrow(flag: str) -> bool:
    """From now on `product` is made by this of KINDS, if it can be here. Raises: InputError when there is no compiler."""
    if not getattr(_compiled(), KINDS[flag])():
        return False
    _register_narrow()
    return True


def is_on() -> bool:
    """Whether programs traced now have these products: never over a mesh, which is XLA's to cut."""
    return _library != "xla" and parallel.current() is None


def coded(x: Float[Array, "*B D"], codes: Int8[Array, "F D"], scale: Float[Array, "F"]) -> Float[Array, "*B F"]:
    """`x @ (codes * scale).T`, of float32 `x`. D must be a multiple of UNIT; `load_coded` comes first."""
    rows = x.reshape(-1, x.shape[-1])
    call = jax.ffi.ffi_call("gemini_mini_coded", floats((len(rows), len(codes))))
    return call(rows, codes, scale).reshape(*x.shape[:-1], -1)


@functools.cache
def load_coded() -> None:
    """Make `coded` known to XLA. Raises: InputError where it cannot be compiled."""
    jax.ffi.register_ffi_target("gemini_mini_coded", jax.ffi.pycapsule(_compiled().coded), platform="cpu")


@jax.custom_vjp
def product(x: Float[Array, "M D"], w: Float[Array, "D F"]) -> Float[Array, "M F"]:
    """`x @ w`."""
    return _call(x.astype(NARROW), w.astype(NARROW))


def slopes(x: Float[Array, "M D"], w: Float[Array, "D F"], grad: Float[Array, "M F"]) -> tuple[Array, Array]:
    """The gradients of x and w, given that of `product`."""
    x, w, grad = (a.astype(NARROW) for a in (x, w, grad))
    return _call(grad, w, turn_w=True), _call(x, grad, turn_x=True)


def _forward(x, w):
    x, w = x.astype(NARROW), w.astype(NARROW)
    return _call(x, w), (x, w)


product.defvjp(_forward, lambda kept, grad: slopes(*kept, grad))


@jax.custom_vjp
def gated(x: Float[Array, "M D"], gate: Float[Array, "D F"], up: Float[Array, "D F"], down: Float[Array, "F D"]) -> Float[Array, "M D"]:
    """`(gelu(x @ gate) * (x @ up)) @ down`, and what is between these products never stands in memory. D and F must be multiples of `MULTIPLE`."""
    return _gated_forward(x, gate, up, down)[0]


def entropy(
    hidden: Float[Array, "M D"], table: Float[Array, "V D"], targets: Int[Array, "M"], weights: Float[Array, "M"], z: float, with_slopes: bool
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Of each row whose weight is not 0 the nats of its target and log Z of all scores `hidden @ table.T`, which never stand in memory.

    And, `with_slopes`, the gradients of hidden and table of the sum of weights * (nats + z * log_z^2). D must be a multiple of `MULTIPLE`.
    """
    size, given = len(table), (hidden.astype(NARROW), *_rounded(table), targets, weights)
    of_rows = [floats(targets.shape)] * 2
    if not with_slopes:
        return *jax.ffi.ffi_call("gemini_mini_entropy", of_rows)(*given, vocabulary=size), None
    call = jax.ffi.ffi_call("gemini_mini_entropy_back", [*of_rows, floats(hidden.shape), floats((PARTS, *given[1].shape))])
    nats, log_z, slopes, by_part = call(*given, vocabulary=size, z=np.float32(z))
    return nats, log_z, (slopes, sum(by_part)[:size])


def newton_schulz(matrices: Sequence[Float[Array, "_ _"]], steps: int, first: float, third: float, fifth: float) -> list[Array]:
    """Each x `steps` times `first x + (third s + fifth s s) x` with `s = x x'`; all in one call, whose threads take one after another."""
    given = [jnp.pad(x, [(0, -size % MULTIPLE) for size in x.shape]) for x in matrices]
    call = jax.ffi.ffi_call("gemini_mini_orthogonal", [floats(x.shape) for x in given])
    made = call(*given, steps=steps, **{name: np.float32(value) for name, value in dict(first=first, third=third, fifth=fifth).items()})
    return [x[: like.shape[0], : like.shape[1]] for x, like in zip(made, matrices, strict=True)]


@jax.custom_vjp
def normed(x: Float[Array, "M D"], scale: Float[Array, "D"]) -> Float[Array, "M D"]:
    """`nn.RMSNorm` of each row, in float32. D must be a multiple of UNIT."""
    return jax.ffi.ffi_call("gemini_mini_norm", floats(x.shape))(x, scale)


def _normed_backward(given, grad):
    x, scale = given
    call = jax.ffi.ffi_call("gemini_mini_norm_back", [floats(x.shape), floats((-(-len(x) // BLOCK), len(scale)))])
    dx, sums = call(x, scale, grad)
    return dx, jnp.sum(sums, axis=0)


normed.defvjp(lambda x, scale: (normed(x, scale), (x, scale)), _normed_backward)


def floats(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """What a function of ours gives back."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _rounded(x: Array, *others: Array) -> tuple[Array, ...]:
    return tuple(a.astype(NARROW) for a in (jnp.pad(x, ((0, -len(x) % MULTIPLE), (0, 0))), *others))


def _gated(x: Array, *weights: Array) -> Array:
    return jax.ffi.ffi_call("gemini_mini_gated", floats(x.shape))(x, *weights)


def _gated_forward(x, *weights):
    given = _rounded(x, *weights)
    return _gated(*given)[: len(x)], given


def _gated_backward(given, grad):
    x, *weights = given
    call = jax.ffi.ffi_call("gemini_mini_gated_back", [floats(x.shape), *(floats((PARTS, *w.shape)) for w in weights)])
    dx, *sums = call(*given, *_rounded(grad))
    return dx[: len(grad)], *(sum(each) for each in sums)  # one after another: XLA's own sum over them takes half as long as all products


gated.defvjp(_gated_forward, _gated_backward)


def _call(x: Array, w: Array, turn_x: bool = False, turn_w: bool = False) -> Array:
    if x.shape[0 if turn_x else 1] % 2:  # numbers are multiplied in pairs
        more = lambda a, first: jnp.pad(a, [(0, int(first)), (0, int(not first))])
        x, w = more(x, turn_x), more(w, not turn_w)
    shape = x.shape[1 if turn_x else 0], w.shape[0 if turn_w else 1]
    call = jax.ffi.ffi_call("gemini_mini_narrow", floats(shape))
    return call(x, w, turn_x=np.bool_(turn_x), turn_w=np.bool_(turn_w))


def cpu_info() -> str:
    """What Linux says of the CPU; "" elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.is_file() else ""


@functools.cache
def _register_narrow() -> None:
    for name in HANDLERS:
        jax.ffi.register_ffi_target(f"gemini_mini_{name}", jax.ffi.pycapsule(getattr(_compiled(), name)), platform="cpu")


@functools.cache
def _made_of() -> str:
    """SOURCES, the compiler and the CPU, in short."""
    cpu = next((line for line in cpu_info().splitlines() if line.startswith("flags")), platform.processor())
    version = subprocess.run([_compiler(), "--version"], capture_output=True).stdout  # an older one may know less of the CPU
    return files.hash_bytes(*(source.read_bytes() for source in SOURCES), jax.__version__.encode(), cpu.encode(), version)


def _compiler() -> str:
    found = shutil.which("c++") or shutil.which("g++")
    if not found:
        raise errors.InputError("run.products and --eight-bit need a C++ compiler (apt install g++); do without them, or install one")
    return found


@functools.cache
def _compiled() -> ctypes.CDLL:
    """SOURCES for this CPU, compiled once and kept by what they are made of."""
    path = files.CACHE / f"matmul-{_made_of()}.so"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name
            objects = {source: Path(folder) / f"{source.stem}.o" for source in SOURCES if source.suffix == ".cc"}

            def compiled(*what: str | Path) -> None:
                command = [_compiler(), "-O3", "-march=native", "-w", "-std=c++17", "-fPIC", f"-I{jax.ffi.include_dir()}", *what]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise errors.InputError(f"{SOURCES[0].parent} has C++ that does not compile here; do without run.products and --eight-bit:\n{done.stderr[-2000:]}")

            with futures.ThreadPoolExecutor() as pool:
                list(pool.map(lambda source: compiled("-c", source, "-o", objects[source]), objects))
            compiled("-shared", *objects.values(), "-o", made)
            try:
                files.write_bytes(path, made.read_bytes())
            except OSError:  # a home that cannot be written: compiled anew at each start
                return ctypes.CDLL(str(made))
    return ctypes.CDLL(str(path))
