"""Matrix products that XLA does not make fast on a CPU: options, off unless asked for. All need a C++ compiler.

    python train.py CONFIG run.products=mkl      on the CPU's matrix units (AMX); needs pip install -e '.[mkl]'
    python train.py CONFIG run.products=avx512   by its vectors of bfloat16 (avx512_bf16: AMD since Zen 4)
    python sample.py RUN --eight-bit PARTS       by weights of 8 bits, of which a fourth as many bytes are read

In the first two, weights and activations stay float32. What is multiplied is rounded to bfloat16 and summed in float32, which
is also what a TPU does with float32 products unless told otherwise. The first library is oneMKL, which matmul.cc hands to XLA; it is
no faster than XLA on an AMD, and no library that pip installs alone multiplies bfloat16 there, so the second is in matmul.cc.
The third is for decoding, where every token reads all weights: quant.py makes them. Where the CPU multiplies whole numbers
(avx512_vnni) its activations are rounded to some 15 bits.
"""

import ctypes
import functools
import importlib.metadata
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

Library = Literal["xla", "mkl", "avx512"]
MATRIX_UNITS, VECTORS = "amx_bf16", "avx512_bf16"  # as Linux names them
UNIT = 16  # numbers of a vector in matmul.cc
SOURCE = Path(__file__).with_suffix(".cc")
NARROW = jnp.bfloat16
_library: Library = "xla"


def use(library: Library) -> None:
    """Whose products programs have that are traced from now on in this process.

    Raises: InputError where the package, a compiler, or what the CPU should have is missing.
    """
    global _library
    if library == "mkl":
        _demand("mkl", MATRIX_UNITS, "matrix units")
        open_blas(find_mkl())
    elif library == "avx512":
        _demand("avx512", VECTORS, "vectors of bfloat16")
        open_tiles()
    if library != _library:
        jax.clear_caches()  # what was traced with the other's
    _library = library


def is_on() -> bool:
    """Whether programs traced now have the products of a library: never over a mesh, which is XLA's to cut."""
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


def _demand(library: Library, flag: str, what: str) -> None:
    if flag not in cpu_info():
        raise errors.InputError(f"run.products={library}: needs a CPU with {what} ({flag}), and Linux; leave it at xla")


def cpu_info() -> str:
    """What Linux says of the CPU; "" elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.is_file() else ""


def find_mkl() -> Path:
    """Its library, told to use one thread: XLA's own are given their parts. Raises: InputError when it is not installed."""
    try:
        found = [Path(file.locate()) for file in importlib.metadata.files("mkl") or () if file.name.startswith("libmkl_rt.so")]
    except importlib.metadata.PackageNotFoundError:
        found = []
    if not found:
        raise errors.InputError("run.products=mkl: needs oneMKL; pip install -e '.[mkl]', or leave it at xla")
    ctypes.CDLL(str(found[0])).MKL_Set_Threading_Layer(1)
    return found[0]


def open_blas(path: Path) -> None:
    """From now on products are those of this library. Raises: InputError when it has none of bfloat16 matrices."""
    library = _compiled()
    if not library.open_blas(str(path).encode()):
        raise errors.InputError(f"run.products=mkl: {path} has no product of bfloat16 matrices; pip install --upgrade mkl")
    _register_narrow()


def open_tiles() -> None:
    """From now on products are those of matmul.cc itself. Raises: InputError when the compiler does not know the CPU's bfloat16."""
    if not _compiled().open_tiles():
        raise errors.InputError("run.products=avx512: needs a compiler that knows this CPU's bfloat16 (g++ 10 or newer)")
    _register_narrow()


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
                       str(SOURCE), "-ldl", "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise errors.InputError(f"{SOURCE} does not compile here; do without run.products and --eight-bit:\n{done.stderr[-2000:]}")
            try:
                files.write_bytes(path, made.read_bytes())
            except OSError:  # a home that cannot be written: compiled anew at each start
                return ctypes.CDLL(str(made))
    return ctypes.CDLL(str(path))
