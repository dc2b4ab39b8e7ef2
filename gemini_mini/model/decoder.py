"""The decoder: one embedding for all modalities, blocks of attention and MLP, tied output.

    x = embed(tokens);  x += attention(norm(x));  x += mlp(norm(x));  logits = norm(x) embed^T

Sizes follow from one dial, the depth. Logits are float32.
Fact: decoder-only, multi-query, one stream of all modalities (Gemini report, section 2).
Next: ../train/loss.py, ../decode/engine.py.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from gemini_mini import errors, nn, parallel, quant
from gemini_mini.model import attention, ring

@dataclass(frozen=True)
class DecoderConfig:
    """`depth` is the dial: width = depth * aspect, and so on."""

    vocab_size: int = 0  # filled in from the tokenizers; given, only a plan reads it
    depth: int = 4
    aspect: int = 64
    head_dim: int = 64
    kv_heads: int = 1
    hidden: int = 0  # 0: three times the width
    shortcuts: bool = False  # ids reach further than the first block (Decoder)
    key_offset: bool = False  # half of each key is of the id before (attention.py)
    context_tokens: int = 1024
    rope_base: float = 10_000.0
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; weights and logits are float32
    attention: Literal["chunks", "blockwise", "splash"] = "chunks"  # short, long, on a TPU; run.products=bfloat16 has its own
    scan: bool = False  # one compiled block for all, recomputed in the backward pass: for accelerators

    def __post_init__(self):
        if self.width % self.head_dim:
            raise errors.InputError(f"model: width must be a multiple of head_dim, got {self.width} and {self.head_dim}")
        if self.heads % self.kv_heads:
            raise errors.InputError(f"model: heads must be a multiple of kv_heads, got {self.heads} and {self.kv_heads}")

    @property
    def width(self) -> int:
        return self.depth * self.aspect

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def hidden_width(self) -> int:
        return self.hidden or 3 * self.width

    @property
    def num_params(self) -> int:
        """Counted by formula; the tests hold it against the arrays."""
        block = 2 * self.width**2 + 2 * self.width * self.kv_heads * self.head_dim + 3 * self.width * self.hidden_width
        norms = 2 * self.width + 2 * self.head_dim
        return self.vocab_size * self.width + self.width + self.depth * (block + norms) + self._num_shortcuts

    @property
    def num_token_values(self) -> int:
        return self.shortcuts * self.depth * self.vocab_size * self.kv_heads * self.head_dim

    @property
    def _num_shortcuts(self) -> int:
        return self.num_token_values + self.shortcuts * (self.width + 2 * self.depth)

    def flops_per_token(self, row_tokens: int) -> int:
        """Training FLOPs (forward and backward): 6 per weight that is multiplied and causal attention over full rows."""
        return 6 * (self.num_params - self._num_shortcuts) + 6 * self.depth * self.width * row_tokens


class Block(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        out_scale = (2 * config.depth) ** -0.5  # the residual sum keeps its size at any depth
        self.attention_norm, self.mlp_norm = nn.RMSNorm(config.width), nn.RMSNorm(config.width)
        self.attention = attention.Attention(config.width, config.heads, config.kv_heads, config.head_dim,
                                             out_scale, config.attention, rngs, config.vocab_size * config.shortcuts, config.key_offset)
        self.mlp = nn.MLP(config.width, config.hidden_width, rngs, out_scale)
        if config.shortcuts:
            self.kept, self.again = nn.constant((1,), "one", 1.0), nn.constant((1,), "one", 0.0)

    def __call__(self, x: Float[Array, "B T D"], first: Float[Array, "B T D"], tokens: Int[Array, "B T"], turns: nn.Turns,
                 segments: Int[Array, "B T"]):
        x = self.entering(x, first)
        x = x + self.attention(self.attention_norm(x), tokens, turns, segments)
        return x + self.mlp(self.mlp_norm(x))

    def step(self, x: Float[Array, "B T D"], first: Float[Array, "B T D"], tokens: Int[Array, "B T"], positions: Int[Array, "B T"],
             turns: nn.Turns, cache: attention.LayerCache):
        x = self.entering(x, first)
        mixed, cache = self.attention.step(self.attention_norm(x), tokens, positions, turns, cache)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), cache

    def entering(self, x: Float[Array, "B T D"], first: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """With what entered the first block, where there are shortcuts."""
        return self.kept[...].astype(x.dtype) * x + self.again[...].astype(x.dtype) * first if hasattr(self, "again") else x


class Cache(NamedTuple):
    """What rows have read: their ids, and each block's keys and values; one slot per position."""

    ids: Int[Array, "B S"]
    blocks: tuple[attention.LayerCache, ...]


class Decoder(nnx.Module):
    """Ids to hidden states to logits, over whole rows or step by step with a cache.

    With `shortcuts` each id brings some of the id before it, enters every block again, and has values of its own in
    every attention: hardly a product more, and the same losses after fewer steps (EXPERIMENTS.md).
    Source: modded-nanogpt and nanochat (Jordan et al. 2024; Karpathy 2025), there smear, x0 and value embeddings.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config, self.dtype = config, jnp.dtype(config.dtype)
        self.embed = nn.normal(rngs, (config.vocab_size, config.width), "V D", nn.EMBED_STD)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.depth)])
        self.norm = nn.RMSNorm(config.width)
        if config.shortcuts:
            self.before = nn.constant((config.width,), "D", 0.2)

    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"], segments: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Hidden states of packed rows; `logits` turns them into predictions."""
        before = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        if parallel.context_size() > 1:
            tokens, before, positions, segments = map(ring.to_zigzag, (tokens, before, positions, segments))
        x, turns = parallel.rows(self.enter(tokens, before, positions)), self.turns(positions)
        if self.config.scan:
            x = self._scan(x, tokens, turns, segments)
        else:
            first = x
            for block in self.blocks:
                x = parallel.rows(_block(block, x, first, tokens, turns, segments))
        x = self.norm(x)
        return ring.from_zigzag(x) if parallel.context_size() > 1 else x

    def _scan(self, first: Float[Array, "B T D"], tokens: Int[Array, "B T"], turns: nn.Turns, segments: Int[Array, "B T"]):
        """The blocks as one compiled loop. Only its inputs and what attention gave are kept for the backward pass."""
        axes = nn.axes(self.blocks[0])

        def body(x, weights):
            whole = {name: parallel.gathered(w, axes[name]) for name, w in weights.items()}
            return parallel.rows(nn.with_weights(self.blocks[0], whole)(x, first, tokens, turns, segments)), None

        cast = [{name: w.astype(self.dtype) if w.ndim > 1 else w for name, w in nn.weights(b).items()} for b in self.blocks]
        stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *cast)
        keep = jax.checkpoint_policies.save_only_these_names(ring.RESIDUALS)
        return jax.lax.scan(jax.checkpoint(body, policy=keep, prevent_cse=False), first, stacked)[0]

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache of `length` slots for each of `batch` rows."""
        shape = (batch, length, self.config.kv_heads, self.config.head_dim)
        blocks = tuple(attention.LayerCache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)) for _ in self.blocks)
        return Cache(jnp.zeros(shape[:2], jnp.int32), blocks)

    def step(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"], cache: Cache
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Hidden states of T more positions of each row, and the cache with them written in.

        Slots are positions. A padded prompt writes slots past its end, which later steps
        overwrite before anything can see them.
        """
        row = jnp.arange(len(tokens))[:, None]
        ids = cache.ids.at[row, positions].set(tokens)
        first, turns, new = self.enter(tokens, ids[row, positions - 1], positions), self.turns(positions), []
        x = first
        for block, layer in zip(self.blocks, cache.blocks, strict=True):
            x, layer = _step(block, x, first, tokens, positions, turns, layer)
            new.append(layer)
        return self.norm(x), Cache(ids, tuple(new))

    def turns(self, positions: Int[Array, "B T"]) -> nn.Turns:
        """What the rotary positions of queries and keys are, the same for every block."""
        return nn.turns(positions, self.config.head_dim, self.config.rope_base)

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        return logits(self.embed[...], hidden)

    def enter(self, tokens: Int[Array, "B T"], before: Int[Array, "B T"], positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """What enters the first block; a document's first id has none before it."""
        x = nn.embedded(self.embed, tokens, self.dtype)
        if not self.config.shortcuts:
            return x
        return x + self.before[...].astype(x.dtype) * nn.embedded(self.embed, before, x.dtype) * (positions > 0)[..., None]


_block, _step = jax.jit(Block.__call__), jax.jit(Block.step)  # the blocks are alike: traced once, not once each


def logits(embed: Float[Array, "V D"] | quant.Codes, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Float32 scores of every id, by the embedding itself."""
    if isinstance(embed, quant.Codes):
        return embed.product(hidden.astype(jnp.float32))
    return nn.product(hidden, embed.T.astype(hidden.dtype), jnp.dtype(jnp.float32))
