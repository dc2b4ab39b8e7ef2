"""Next-token cross-entropy over the stream, counted per modality."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from gemini_mini import matmul, nn, parallel, vocab as vocabulary
from gemini_mini.vocab import Vocab

Z_LOSS = 1e-4  # pulls log Z to 0: logits cannot drift together (PaLM, arXiv 2204.02311, section 5)
CHUNK = 512     # positions whose logits stand at once: they stay near the processor
STRETCH = 2048  # the same for a device of a mesh, when rows are longer than this


def total(
    embed: Float[Array, "V D"], hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, "B T"]]:
    """The sum of weights * (nats + Z_LOSS * log_z^2), and the nats of each target that counts, which carry no gradient.

    All logits of a batch never stand at once. They are the largest arrays of a step, so on one device the gradient is
    made where they are, in the forward pass, and they are not made or read again; `weights` must not depend on a weight.
    There, where a weight is zero, no logits are made at all.
    """
    if parallel.current() is None:
        return _on_one_device(embed, hidden, targets, weights)
    nats, log_z = over_mesh(embed, hidden, targets)
    return jnp.sum(weights * (nats + Z_LOSS * log_z**2)), jax.lax.stop_gradient(nats)


@jax.custom_vjp
def _on_one_device(embed, hidden, targets, weights):
    return _made(embed, hidden, targets, weights, False)[0]


def _made(embed, hidden, targets, weights, with_gradient: bool):
    """((sum, nats), (gradient of embed, of hidden)); without it, None."""
    if not matmul.is_on() or hidden.shape[-1] % matmul.MULTIPLE:
        return _by_chunks(embed, hidden, targets, weights, with_gradient)
    flat = hidden.reshape(-1, hidden.shape[-1]), embed, targets.reshape(-1), weights.reshape(-1)
    nats, log_z, slopes = matmul.entropy(*flat, Z_LOSS, with_gradient)
    found = jnp.sum(flat[-1] * (nats + Z_LOSS * log_z**2)), nats.reshape(targets.shape)
    return found, (slopes[1], slopes[0].reshape(hidden.shape).astype(hidden.dtype)) if with_gradient else None


def _by_chunks(embed, hidden, targets, weights, with_gradient: bool):
    """The same by XLA. What counts stands first, and the loop ends with it."""
    table = embed.T.astype(hidden.dtype)
    chunks = -(-targets.size // CHUNK)
    size = -(-targets.size // chunks)
    order = jnp.argsort(weights.reshape(-1) == 0, stable=True)

    def cut(x: Array, axes: int) -> Array:
        flat = x.reshape(-1, *x.shape[axes:])[order]
        return jnp.pad(flat, [(0, chunks * size - len(flat))] + [(0, 0)] * (flat.ndim - 1)).reshape(chunks, size, *flat.shape[1:])

    def whole(cut: Array, shape: tuple[int, ...]) -> Array:
        flat = cut.reshape(-1, *cut.shape[2:])[: len(order)]
        return jnp.zeros_like(flat).at[order].set(flat, unique_indices=True).reshape(shape)

    given = cut(hidden, 2), cut(targets, 2), cut(weights, 2)

    def chunk(i, so_far):
        value, nats, slopes = so_far
        hidden, targets, weights = (x[i] for x in given)
        scores = nn.product(hidden, table, jnp.dtype(jnp.float32))
        top = jnp.max(scores, axis=-1, keepdims=True)
        shares = jnp.exp(scores - top)
        z = jnp.sum(shares, axis=-1, keepdims=True)
        log_z = (top + jnp.log(z))[:, 0]
        found = log_z - jnp.take_along_axis(scores, targets[:, None], axis=-1)[:, 0]
        value, nats = value + jnp.sum(weights * (found + Z_LOSS * log_z**2)), nats.at[i].set(found)
        if not with_gradient:
            return value, nats, None
        slope = shares * ((weights * (1 + 2 * Z_LOSS * log_z))[:, None] / z)
        slope -= jnp.where(jnp.arange(scores.shape[1]) == targets[:, None], weights[:, None], 0)
        hidden_slope, table_slope = nn.product_slopes(hidden, table, slope)
        return value, nats, (slopes[0] + table_slope, slopes[1].at[i].set(hidden_slope))

    slopes = (jnp.zeros(table.shape), jnp.zeros_like(given[0])) if with_gradient else None
    start = jnp.zeros(()), jnp.zeros((chunks, size)), slopes
    value, nats, slopes = jax.lax.fori_loop(0, -(-jnp.sum(weights != 0) // size), chunk, start)
    found = value, whole(nats, targets.shape)
    return found, (slopes[0].T, whole(slopes[1], hidden.shape)) if with_gradient else None


def _backward(slopes, grad):
    return slopes[0] * grad[0], (slopes[1] * grad[0]).astype(slopes[1].dtype), None, None


_on_one_device.defvjp(lambda *args: _made(*args, True), _backward)


def over_mesh(
    embed: Float[Array, "V D"], hidden: Float[Array, "B T D"], targets: Int[Array, "B T"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Nats of each target and log Z at each position, with the vocabulary cut over devices.

    The logits of long rows never stand whole: they are made a stretch at a time, and again in the backward pass.
    """
    def stretch(embed, hidden, targets):
        logits = nn.product(hidden, embed.T.astype(hidden.dtype), jnp.dtype(jnp.float32))
        scores = parallel.over_vocabulary(logits)
        log_z = jax.nn.logsumexp(scores, axis=-1)
        return log_z - jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0], log_z

    if hidden.shape[1] <= STRETCH:
        return stretch(embed, hidden, targets)

    def on_device(embed, hidden, targets):
        size = math.gcd(targets.size, STRETCH)
        cut = (hidden.reshape(-1, 1, size, hidden.shape[-1]), targets.reshape(-1, 1, size))
        made = jax.lax.map(jax.checkpoint(lambda x: stretch(embed, *x)), cut)
        return tuple(x.reshape(targets.shape) for x in made)

    # The vocabulary stays the partitioner's, which cuts it over the tensor axis.
    inner = parallel.per_device(on_device, (PartitionSpec(), parallel.ROWS, parallel.ROWS), (parallel.ROWS, parallel.ROWS),
                                ("data", "fsdp", "context"))
    return inner(embed, hidden, targets)


def counted(
    targets: Int[Array, "B T"], has_target: Float[Array, "B T"], scale: Float[Array, "B T"], vocab: Vocab
) -> dict[str, Float[Array, "B T"]]:
    """How much each target counts in each of the means of `next_token`; in those of a modality never more than 1."""
    modality = vocab.modality_of(targets)
    once = has_target * jnp.minimum(scale, 1.0)
    return {"loss": has_target * scale} | {f"loss/{name}": once * (modality == i) for i, name in enumerate(vocabulary.MODALITIES)}


def next_token(
    embed: Float[Array, "V D"], hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], has_target: Float[Array, "B T"],
    scale: Float[Array, "B T"], vocab: Vocab,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean loss weighed by `scale`, and the mean in nats of each modality's targets, where one that counts less than 1 counts so much."""
    weights = counted(targets, has_target, scale, vocab)
    whole = weights.pop("loss")
    value, nats = total(embed, hidden, targets, whole / jnp.maximum(jnp.sum(whole), 1e-6))
    return value, {name: jnp.sum(here * nats) / jnp.maximum(jnp.sum(here), 1e-6) for name, here in weights.items()}
