"""The few layers everything is made of, as plain functions and flax NNX modules used as pytrees.

Weights are float32 and named by their axes; `linear` casts them to the type of the input.
A module is only ever built and called: it never changes itself, so `jax.jit` takes it directly.
Papers: RMSNorm, arXiv 1910.07467; rotary positions, arXiv 2104.09864; gated MLP, arXiv 2002.05202.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from gemini_mini import errors, matmul, parallel, quant

EMBED_STD = 0.02  # of an embedding's weights, small, so that a tied output does not start by predicting its own input
SLICES = 16  # of the rows, where the gradient of a weight is one product over both axes


class Shapes(nnx.Rngs):
    """In place of random keys: a module is then made of shapes, at once, where tracing its initialisation takes 0.1 s and more."""


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], axes: str, std: float) -> nnx.Param:
    """A normal weight; only its shape where `rngs` are `Shapes`."""
    if isinstance(rngs, Shapes):
        return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), axes=axes)
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


def param(rngs: nnx.Rngs, shape: tuple[int, ...], axes: str, scale: float = 1.0) -> nnx.Param:
    """A normal weight with standard deviation scale / sqrt(fan in); the last axis is the output.

    `axes` names each axis by its letter ("D F"), which is all that sharding needs to know.
    """
    if len(axes.split()) != len(shape):
        raise ValueError(f"param: needs one letter per axis, got {axes!r} for shape {shape}")
    return normal(rngs, shape, axes, scale / math.sqrt(math.prod(shape[:-1])))


def constant(shape: tuple[int, ...], axes: str, value: float) -> nnx.Param:
    """A weight that starts as a constant: norms, biases, gates."""
    return nnx.Param(jnp.asarray(np.full(shape, value, np.float32)), axes=axes)


def linear(x: Float[Array, "*B D"], w: nnx.Param) -> Float[Array, "*B F"]:
    """`x @ w` in the type of `x`."""
    return w[...].product(x) if isinstance(w[...], quant.Codes) else product(x, w[...].astype(x.dtype))


def embedded(table: nnx.Param, tokens: Int[Array, "*B"], dtype: jnp.dtype) -> Float[Array, "*B D"]:
    """The rows of a table "V _" or "Vs _" that ids choose, in units of EMBED_STD: what is learned at an embedding's rate is of size 1."""
    w = table[...]
    rows = w[tokens] if isinstance(w, quant.Codes) else parallel.gathered(w, table.axes)[tokens]
    return rows.astype(dtype) / EMBED_STD


def product(x: Float[Array, "*B D"], w: Float[Array, "D F"], dtype: jnp.dtype | None = None) -> Float[Array, "*B F"]:
    """`x @ w`, as one product of two matrices: XLA's CPU backend likes no other shape.

    Where the positions of a row are cut over devices they stay an axis of their own, or they would be gathered.
    """
    if parallel.current() is None:
        rows = x.reshape(-1, x.shape[-1])
        if matmul.is_on():
            made = matmul.product(rows.astype(jnp.float32), w.astype(jnp.float32)).astype(dtype or x.dtype)
        else:
            made = _matmul(rows, w, dtype)
        return made.reshape(*x.shape[:-1], -1)
    flat = x if parallel.context_size() > 1 else x.reshape(-1, x.shape[-1])
    return jnp.matmul(flat, w, preferred_element_type=dtype).reshape(*x.shape[:-1], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: Float[Array, "M D"], w: Float[Array, "D F"], dtype: jnp.dtype | None) -> Float[Array, "M F"]:
    """`x @ w`, its gradients in the type of `x` and in the forms that XLA's CPU backend is fastest at."""
    return jnp.matmul(x, w, preferred_element_type=dtype)


def product_slopes(x: Float[Array, "M D"], w: Float[Array, "D F"], grad: Float[Array, "M F"]) -> tuple[Array, Array]:
    """The gradients of x and w, given that of `x @ w`."""
    if matmul.is_on():
        return tuple(slope.astype(x.dtype) for slope in matmul.slopes(x, w, grad))
    grad = grad.astype(x.dtype)
    if x.dtype == jnp.bfloat16:  # only a product over two axes reaches the matrix units of a CPU here
        cut_x, cut_grad = (a.reshape(math.gcd(len(a), SLICES), -1, a.shape[-1]) for a in (x, grad))
        return grad @ w.T, jnp.einsum("smd,smf->df", cut_x, cut_grad)
    # With the longer side last it is a fifth to two thirds faster. Without the barrier XLA undoes the transposition.
    is_wide = w.shape[0] <= w.shape[1]
    w_grad = jax.lax.optimization_barrier(x.T @ grad if is_wide else grad.T @ x)
    return grad @ w.T, w_grad if is_wide else w_grad.T


_matmul.defvjp(lambda x, w, dtype: (_matmul(x, w, dtype), (x, w)), lambda dtype, kept, grad: product_slopes(*kept, grad))


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis; the mean is float32 whatever the input."""

    def __init__(self, dim: int, axes: str = "D"):
        self.scale = constant((dim,), axes, 1.0)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        wide = x.astype(jnp.float32)
        if matmul.is_on() and x.shape[-1] % matmul.UNIT == 0:
            return matmul.normed(wide.reshape(-1, x.shape[-1]), self.scale[...]).reshape(x.shape).astype(x.dtype)
        mean = jnp.mean(wide * wide, axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(mean + 1e-6) * self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class MLP(nnx.Module):
    """Gated MLP: (gelu(x gate) * (x up)) down. The output starts small, at `out_scale`."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs, out_scale: float = 1.0):
        self.gate = param(rngs, (width, hidden), "D F")
        self.up = param(rngs, (width, hidden), "D F")
        self.down = param(rngs, (hidden, width), "F D", out_scale)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        weights = [w[...] for w in (self.gate, self.up, self.down)]
        is_coded = isinstance(weights[0], quant.Codes)
        if matmul.is_on() and not is_coded and not any(size % matmul.MULTIPLE for size in weights[0].shape):
            given = (a.astype(jnp.float32) for a in (x.reshape(-1, x.shape[-1]), *weights))
            return matmul.gated(*given).reshape(x.shape).astype(x.dtype)
        return linear(jax.nn.gelu(linear(x, self.gate)) * linear(x, self.up), self.down)


class Turns(NamedTuple):
    """By how much each half-pair is rotated at each position."""

    cos: Float[Array, "B T 1 half"]
    sin: Float[Array, "B T 1 half"]


def turns(positions: Int[Array, "B T"], size: int, base: float = 10_000.0) -> Turns:
    """Of half-pair i of `size` values: position * base^(-2i/size). Made once for all layers."""
    frequency = base ** (-jnp.arange(size // 2, dtype=jnp.float32) / (size // 2))
    angle = positions[..., None].astype(jnp.float32) * frequency[None, None]
    both = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    # XLA would make sines anew for every head of every layer, one number at a time; what a product gives, it reads.
    cos, sin = jnp.split(jnp.matmul(both, jnp.eye(size), precision="highest")[:, :, None], 2, axis=-1)
    return Turns(cos, sin)


def rope(x: Float[Array, "B T N H"], by: Turns) -> Float[Array, "B T N H"]:
    """Rotate each half-pair (i, i + H/2) of `x`."""
    left, right = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    cos, sin = by.cos.astype(x.dtype), by.sin.astype(x.dtype)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def _named(module: nnx.Module) -> list[tuple[str, nnx.Param]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda x: isinstance(x, nnx.Param))
    return [(".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path), leaf)
            for path, leaf in leaves]


def weights(module: nnx.Module) -> dict[str, Array | jax.ShapeDtypeStruct]:
    """Every weight by its dotted name, such as "blocks.0.mlp.gate"; shapes where the module is only shapes."""
    return {name: param.get_value() for name, param in _named(module)}


def axes(module: nnx.Module) -> dict[str, str]:
    """The axis letters of every weight by its dotted name."""
    return {name: param.get_metadata()["axes"] for name, param in _named(module)}


def with_weights(module: nnx.Module, new: dict[str, Array]) -> nnx.Module:
    """A module like this one with other weights; only the structure of `module` is read.

    Raises: InputError when names or shapes differ.
    """
    named = _named(module)
    if {name for name, _ in named} != set(new):
        raise errors.InputError(f"weights: names must be those of {type(module).__name__}, but these differ: "
                                f"{sorted({name for name, _ in named} ^ set(new))[:4]}; use the run's own config")
    for name, param in named:
        if param.shape != new[name].shape:
            raise errors.InputError(f"weights: {name} must have shape {param.shape}, got {new[name].shape}; "
                                    "use the run's own config")
    treedef = jax.tree.structure(module)
    return jax.tree.unflatten(treedef, [new[name] for name, _ in named])


def packed(module: nnx.Module) -> dict[str, np.ndarray]:
    """Its weights as a file holds them: matrices in 8 bits (quant.py)."""
    return quant.pack({name: np.asarray(w) for name, w in weights(module).items()}, axes(module))


def rounded(module: nnx.Module) -> nnx.Module:
    """The module as it is read from `packed`."""
    return with_weights(module, jax.device_put(quant.unpack(packed(module))))


def eight_bit(module: nnx.Module) -> nnx.Module:
    """The module with every matrix in 8 bits: `linear` multiplies by them as they are. Raises: InputError where it cannot."""
    matmul.load_coded()
    letters = axes(module)
    new = [quant.Codes.of(np.asarray(w), letters[name]) if w.ndim > 1 else w for name, w in weights(module).items()]
    return jax.tree.unflatten(jax.tree.structure(module), new)
