"""Matrix products that XLA does not make fast on a CPU: options, off unless asked for. Both need a C++ compiler.

    python train.py CONFIG run.products=bfloat16   on matrix units (AMX: Intel Xeons since 2023) or by vectors (AMD since Zen 4)
    python sample.py RUN --eight-bit PARTS         by weights of 8 bits, of which a fourth as many bytes are read

In the first, weights and activations stay float32. What is multiplied is rounded to bfloat16 and summed in float32, which
is also what a TPU does with float32 products unless told otherwise. The products are in matmul.cc: oneMKL, which has them for
matrix units, took up to twice as long for our shapes (EXPERIMENTS.md), and no library that pip installs alone has them for an AMD.
The second is for decoding, where every token reads all weights: quant.py makes them. Where the CPU multiplies whole numbers
(avx512_vnni) its activations are rounded to some 15 bits.
"""

import ctypes
import functools
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

from gemini_mini import errors, files, parallel

Library = Literal["xla", "bfloat16"]
KINDS = {"amx_bf16": "open_units", "avx512_bf16": "open_vectors"}  # as Linux names what a CPU has, the faster first; of matmul.cc
UNIT = 16  # numbers of a vector in matmul.cc
SOURCE = Path(__file__).with_suffix(".cc")
NARROW = jnp.bfloat16
_library: Library = "xla"


def use(library: Library) -> None:
    """Whose products programs have that are traced from now on in this process.

    Raises: InputError where a compiler, or what the CPU should have, is missing.
    """
    global _library
    if library == "bfloat16":
        has = cpu_info()
        if not any(flag in has and open_narrow(flag) for flag in KINDS):
            raise errors.InputError(f"run.products=bfloat16: needs Linux, a CPU with {' or '.join(KINDS)} (in /proc/cpuinfo), and a "
                                    "compiler that knows it (g++ 11 or newer); leave it at xla")
    if library != _library:
        jax.clear_caches()  # what was traced with the other's
    _library = library


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
    call = jax.ffi.ffi_call("gemini_mini_coded", jax.ShapeDtypeStruct((len(rows), len(codes)), jnp.float32))
    return call(rows, codes, scale).reshape(*x.shape[:-1], -1)


@functools.cache
def load_coded() -> None:
    """Make `coded` known to XLA. Raises: InputError where it cannot be compiled."""
    jax.ffi.register_ffi_target("gemini_mini_coded", jax.ffi.pycapsule(_compiled().coded), platform="cpu")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Float[Array, "*B M D"], w: Float[Array, "*B _ _"], turn: bool = False) -> Float[Array, "*B M F"]:
    """`x @ w`, or `x @ w.T` with `turn`; of matrices, or of as many as there are along a first axis."""
    return _call(x.astype(NARROW), w.astype(NARROW), turn_w=turn)


def slopes(x: Float[Array, "*B M D"], w: Float[Array, "*B _ _"], grad: Float[Array, "*B M F"], turn: bool = False) -> tuple[Array, Array]:
    """The gradients of x and w, given that of `product`."""
    x, w, grad = (a.astype(NARROW) for a in (x, w, grad))
    return _call(grad, w, turn_w=not turn), _call(grad, x, turn_x=True) if turn else _call(x, grad, turn_x=True)


def _forward(x, w, turn):
    x, w = x.astype(NARROW), w.astype(NARROW)
    return _call(x, w, turn_w=turn), (x, w)


product.defvjp(_forward, lambda turn, kept, grad: slopes(*kept, grad, turn))


def _call(x: Array, w: Array, turn_x: bool = False, turn_w: bool = False) -> Array:
    if x.shape[-2 if turn_x else -1] % 2:  # numbers are multiplied in pairs
        more = lambda a, first: jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, int(first)), (0, int(not first))])
        x, w = more(x, turn_x), more(w, not turn_w)
    shape = (*x.shape[:-2], x.shape[-1 if turn_x else -2], w.shape[-2 if turn_w else -1])
    call = jax.ffi.ffi_call("gemini_mini_narrow", jax.ShapeDtypeStruct(shape, jnp.float32))
    return call(x, w, turn_x=np.bool_(turn_x), turn_w=np.bool_(turn_w))


def cpu_info() -> str:
    """What Linux says of the CPU; "" elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.is_file() else ""


@functools.cache
def _register_narrow() -> None:
    jax.ffi.register_ffi_target("gemini_mini_narrow", jax.ffi.pycapsule(_compiled().narrow), platform="cpu")


@functools.cache
def _compiled() -> ctypes.CDLL:
    """matmul.cc for this CPU, compiled once and kept by what it is made of."""
    cpu = next((line for line in cpu_info().splitlines() if line.startswith("flags")), platform.processor())
    compiler = shutil.which("c++") or shutil.which("g++")
    if not compiler:
        raise errors.InputError("run.products and --eight-bit need a C++ compiler (apt install g++); do without them, or install one")
    version = subprocess.run([compiler, "--version"], capture_output=True).stdout  # an older one may know less of the CPU
    path = files.CACHE / f"matmul-{files.hash_bytes(SOURCE.read_bytes(), jax.__version__.encode(), cpu.encode(), version)}.so"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name
            command = [compiler, "-O3", "-march=native", "-w", "-std=c++17", "-shared", "-fPIC", f"-I{jax.ffi.include_dir()}",
                       str(SOURCE), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise errors.InputError(f"{SOURCE} does not compile here; do without run.products and --eight-bit:\n{done.stderr[-2000:]}")
            try:
                files.write_bytes(path, made.read_bytes())
            except OSError:  # a home that cannot be written: compiled anew at each start
                return ctypes.CDLL(str(made))
    return ctypes.CDLL(str(path))
