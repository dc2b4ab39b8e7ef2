"""Next-token cross-entropy over the stream, counted per modality."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gemini_mini import vocab as vocabulary
from gemini_mini.vocab import Vocab

Z_LOSS = 1e-4  # pulls log Z to 0: logits cannot drift together (PaLM, arXiv 2204.02311, section 5)


def next_token(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], weights: Float[Array, "B T"], vocab: Vocab,
    modality_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighted mean loss, and the plain mean of each modality's targets in nats."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    losses = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    modality = vocab.modality_of(targets)
    scale = jnp.array(modality_weights + (0.0,), jnp.float32)[modality] * weights
    total = jnp.sum(scale * (losses + Z_LOSS * log_z**2)) / jnp.maximum(jnp.sum(scale), 1.0)
    metrics = {}
    for i, name in enumerate(vocabulary.MODALITIES):
        here = weights * (modality == i)
        metrics[f"loss/{name}"] = jnp.sum(here * losses) / jnp.maximum(jnp.sum(here), 1.0)
    return total, metrics
