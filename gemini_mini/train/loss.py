"""Next-token cross-entropy over the stream, counted per modality."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from gemini_mini import parallel, vocab as vocabulary
from gemini_mini.vocab import Vocab

Z_LOSS = 1e-4  # pulls log Z to 0: logits cannot drift together (PaLM, arXiv 2204.02311, section 5)


STRETCH = 2048  # longest stretch of positions on a device whose logits stand at once, when rows are longer than this


def of_targets(
    logits: Callable, embed: Float[Array, "V D"], hidden: Float[Array, "B T D"], targets: Int[Array, "B T"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Nats of each target and log Z at each position, where `logits(embed, hidden)` are float32.

    The logits of long rows never stand whole: they are made a stretch at a time, and again in the backward pass.
    """
    def stretch(embed, hidden, targets):
        scores = parallel.over_vocabulary(logits(embed, hidden))
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


def next_token(
    nats: Float[Array, "B T"], log_z: Float[Array, "B T"], targets: Int[Array, "B T"], has_target: Float[Array, "B T"],
    scale: Float[Array, "B T"], vocab: Vocab,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean loss weighed by `scale`, and the plain mean of each modality's targets in nats."""
    modality = vocab.modality_of(targets)
    weights = has_target * scale
    total = jnp.sum(weights * (nats + Z_LOSS * log_z**2)) / jnp.maximum(jnp.sum(weights), 1e-6)
    metrics = {}
    for i, name in enumerate(vocabulary.MODALITIES):
        here = has_target * (modality == i)
        metrics[f"loss/{name}"] = jnp.sum(here * nats) / jnp.maximum(jnp.sum(here), 1.0)
    return total, metrics
