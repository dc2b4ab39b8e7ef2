"""Next-token cross-entropy over the stream, counted per modality."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gemini_mini import vocab as vocabulary
from gemini_mini.vocab import Vocab

Z_LOSS = 1e-4  # pulls log Z to 0: logits cannot drift together (PaLM, arXiv 2204.02311, section 5)


def next_token(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], has_target: Float[Array, "B T"],
    scale: Float[Array, "B T"], vocab: Vocab,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean loss weighed by `scale`, and the plain mean of each modality's targets in nats."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    losses = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    modality = vocab.modality_of(targets)
    weights = has_target * scale
    total = jnp.sum(weights * (losses + Z_LOSS * log_z**2)) / jnp.maximum(jnp.sum(weights), 1e-6)
    metrics = {}
    for i, name in enumerate(vocabulary.MODALITIES):
        here = has_target * (modality == i)
        metrics[f"loss/{name}"] = jnp.sum(here * losses) / jnp.maximum(jnp.sum(here), 1.0)
    return total, metrics
