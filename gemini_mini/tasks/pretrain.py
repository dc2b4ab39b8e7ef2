"""Pretraining: next-token prediction over rows of all modalities, through the staged mixture.

Facts: staged mixture with the weight of relevant data raised near the end (Gemini report,
section 4); everything trained jointly from the start (section 2).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gemini_mini import errors, files, nn, parallel, vocab as vocabulary
from gemini_mini.data import loader, mixture, packing, rows
from gemini_mini.decode import reading
from gemini_mini.model import decoder
from gemini_mini.tasks import drawn
from gemini_mini.tokenizers import bundle
from gemini_mini.train import loss

COUNTED_ROWS = 32  # of each source


@dataclass(frozen=True)
class Pretrain:
    """`rows` holds train/ and valid/, packed by data_prep/pack.py with these tokenizers."""

    rows: str
    text_tokenizer: str
    image_tokenizer: str
    audio_tokenizer: str
    stages: tuple[mixture.Stage, ...]
    model: decoder.DecoderConfig = decoder.DecoderConfig()
    batch_rows: int = 8
    most_passes: int = 0  # above 0: a source is read no more often, and leaves its part to the others
    user_share: float = 1.0  # of what the user says, so much counts: a question is given, not to be guessed
    answer_text_weight: float = 1.0  # of the model's words: few beside the codes of a picture
    hide_images: float = 0.0  # hide codes of the pictures it draws from the input, up to this share of a row's
    start_from: str = ""  # a finished run whose weights this one begins with: to go on with longer rows or other data
    hide_prompts: float = 0.0  # of the documents that draw, this share does so without what the user says: for guidance

    def __post_init__(self):
        if not 0 <= self.user_share <= 1:
            raise errors.InputError(f"task.user_share: is a share, from 0 to 1, got {self.user_share}")

    @cached_property
    def tokenizers(self) -> bundle.Tokenizers:
        return bundle.load(self.text_tokenizer, self.image_tokenizer, self.audio_tokenizer)

    @property
    def vocab(self) -> vocabulary.Vocab:
        return self.tokenizers.vocab

    @cached_property
    def train_rows(self) -> rows.Rows:
        stored = rows.load(Path(self.rows) / "train", self.vocab.fingerprint)
        if stored.row_tokens > self.model.context_tokens:
            raise errors.InputError(f"{self.rows}: rows of {stored.row_tokens} ids exceed model.context_tokens = "
                                    f"{self.model.context_tokens}; raise it or pack shorter rows")
        return stored

    @cached_property
    def valid_rows(self) -> rows.Rows:
        return rows.load(Path(self.rows) / "valid", self.vocab.fingerprint)

    @cached_property
    def first_weights(self) -> dict[str, np.ndarray]:
        """The weights of `start_from`. Raises: InputError when it is not finished, reads another vocabulary, or reads its weights otherwise."""
        arrays, meta = files.load_arrays(Path(self.start_from) / "model.safetensors")
        vocabulary.check(meta["vocabulary"], self.vocab.fingerprint, self.start_from)
        theirs = files.read_json(Path(self.start_from) / "run.json")["settings"]["task"]["model"]
        for name in ("head_dim", "kv_heads", "key_offset"):  # of which the shapes of weights say nothing
            if (there := theirs.get(name, False)) != (here := getattr(self.model, name)):
                raise errors.InputError(f"task.model.{name}: must be that of task.start_from={self.start_from}, {there}, got {here}")
        return arrays

    def inputs(self) -> dict:
        found = {"rows": files.built_key(self.rows), "vocabulary": self.vocab.fingerprint}
        if self.start_from:
            found["start_from"] = files.hash_bytes(*(w.tobytes() for _, w in sorted(self.first_weights.items())))
        return found

    def init(self, rngs: nnx.Rngs) -> decoder.Decoder:
        made = decoder.Decoder(replace(self.model, vocab_size=self.vocab.size), rngs)
        return nn.with_weights(made, jax.tree.map(jnp.asarray, self.first_weights)) if self.start_from else made

    def batches(self, steps: int, seed: int) -> Callable[[int], packing.Batch]:
        return self._loader(steps, seed).batch

    def _loader(self, steps: int, seed: int) -> loader.Loader:
        if (steps, seed) not in self._loaders:
            self._loaders[steps, seed] = loader.Loader(self.train_rows, self.stages, self.batch_rows, steps, seed, self.most_passes)
        return self._loaders[steps, seed]

    @cached_property
    def _loaders(self) -> dict[tuple[int, int], loader.Loader]:
        return {}

    def loss(self, module: decoder.Decoder, batch: packing.Batch, key) -> tuple[jax.Array, dict[str, jax.Array]]:
        vocab = self.vocab
        tokens = batch.tokens
        if key is not None:
            tokens = self._hide(tokens, batch.speaker, key)
        scale = self._scale(batch)
        if key is not None:  # counted by chance, the others need no logits
            counts = jax.random.uniform(jax.random.fold_in(key, 2), tokens.shape) < self.user_share
            scale = jnp.where(batch.speaker == packing.USER, counts, scale)
        if key is not None and self.hide_prompts:
            is_blind = self._is_blind(batch, jax.random.fold_in(key, 1))
            tokens = jnp.where(is_blind & packing.is_said_by_user(batch.tokens, batch.speaker), vocabulary.PAD, tokens)
            scale = jnp.where(is_blind & (vocab.modality_of(batch.targets) == vocabulary.TEXT), 0.0, scale)
        hidden = module(tokens, batch.positions, batch.segments)
        embed = parallel.gathered(module.embed[...], "V D")
        return loss.next_token(embed, hidden, batch.targets, batch.has_target, scale, vocab)

    def _scale(self, batch: packing.Batch) -> Float[Array, "B T"]:
        """How much each target counts, by who speaks where it is predicted.

        The mark that ends an answer counts as one of its words: without it "teapot" becomes "teapoto".
        """
        targets = batch.targets
        is_word = self.vocab.modality_of(targets) == vocabulary.TEXT
        is_end = (targets == vocabulary.EOS) | (targets == vocabulary.USER)
        answer = jnp.where(is_word | is_end, self.answer_text_weight, 1.0)
        return jnp.where(batch.speaker == packing.USER, self.user_share, jnp.where(batch.speaker == packing.MODEL, answer, 1.0))

    def _hide(self, tokens: Int[Array, "B T"], speaker: Int[Array, "B T"], key: PRNGKeyArray) -> Int[Array, "B T"]:
        """Replace a share of each row's drawn image codes, from none to `hide_images`, by padding in the input.

        Given its first codes, a picture seen before continues by itself: the caption is then needed at
        a few positions only, and is learned from those alone. With codes missing it is needed at every
        position. Targets stay whole, and so do the pictures a user shows.
        """
        level_key, key = jax.random.split(key)
        level = self.hide_images * jax.random.uniform(level_key, (tokens.shape[0], 1))
        hide = jax.random.uniform(key, tokens.shape) < level
        is_drawn = (speaker != packing.USER) & (self.vocab.modality_of(tokens) == vocabulary.IMAGE)
        return jnp.where(hide & is_drawn, vocabulary.PAD, tokens)

    def _is_blind(self, batch: packing.Batch, key: PRNGKeyArray) -> Bool[Array, "B T"]:
        """Where all that the user says is replaced by padding: in some of the documents whose answer holds a picture.

        So the model learns what pictures are like when nothing is asked for: the null prompt of classifier-free
        guidance (arXiv 2207.12598, section 3), which the sampler makes in the same way. Words have nothing to learn there.
        """
        is_drawn = (batch.speaker == packing.MODEL) & (batch.tokens == vocabulary.BOI)
        row = jnp.arange(batch.tokens.shape[0])[:, None]
        draws = jnp.zeros(batch.tokens.shape, bool).at[row, batch.segments].max(is_drawn)
        chosen = jnp.where(draws, jax.random.uniform(key, batch.tokens.shape), 1.0) < self.hide_prompts
        return jnp.take_along_axis(chosen, batch.segments, axis=1)

    def evals(self, module: decoder.Decoder) -> dict[str, float | np.ndarray]:
        """The losses, and prompts drawn: those of training stand before those of validation. Several processes draw none."""
        figures: dict[str, float | np.ndarray] = {**self.valid_losses(module)}
        if jax.process_count() > 1:
            return figures  # the sampler's loop reads its arrays, which here no process has whole
        if asked := drawn.questions(self.train_rows) + drawn.questions(self.valid_rows):  # together: one program draws them
            figures["wanted_and_drawn"] = drawn.sheet(module, self.tokenizers, asked)
        return figures

    def valid_losses(self, module: decoder.Decoder) -> dict[str, float]:
        """Validation loss of each source, weighed as in training, and of each modality in nats per token."""
        @jax.jit
        def measure(weights, batch):
            with parallel.under(reading.mesh_of(module)):
                total, metrics = self.loss(nn.with_weights(module, weights), batch, None)
            counts = loss.counted(batch.targets, batch.has_target, self._scale(batch), self.vocab)
            return {"loss": total, **metrics}, jax.tree.map(jnp.sum, counts)

        weights, figures = nn.weights(module), {}
        for source, stored in self.valid_rows.sources.items():
            # Whole batches of one shape, the last filled with padding, so that one program serves all.
            totals: dict[str, list[np.ndarray]] = {}
            counts: dict[str, list[np.ndarray]] = {}
            for start in range(0, min(len(stored), 4 * self.batch_rows), self.batch_rows):
                tokens = np.zeros((self.batch_rows, stored.shape[1]), np.int32)
                part = stored[start : start + self.batch_rows]
                tokens[: len(part)] = part
                for found, values in zip((totals, counts), measure(weights, packing.batch_of(tokens)), strict=True):
                    for name, value in values.items():
                        found.setdefault(name, []).append(value)
            figures |= {f"valid/{source}/{name}": float(np.average(v, weights=counts[name])) for name, v in totals.items()
                        if np.sum(counts[name])}
        return figures

    def export(self, module: decoder.Decoder, folder: Path) -> None:
        """All that the sampler needs: weights, their vocabulary, and the three tokenizers."""
        names = ("text.model", "image.safetensors", "audio.safetensors")
        for name, path in zip(names, (self.text_tokenizer, self.image_tokenizer, self.audio_tokenizer), strict=True):
            files.write_bytes(folder / "tokenizers" / name, Path(path).read_bytes())
        arrays = {name: np.asarray(w) for name, w in nn.weights(module).items()}
        files.save_arrays(folder / "model.safetensors", arrays, {"vocabulary": self.vocab.fingerprint})

    def reads(self, n: int, steps: int, seed: int) -> dict[str, float]:
        dealt = self._loader(steps, seed).mixture.parts(n * self.batch_rows)
        return {f"mixture/{name}": dealt[name] for name in mixture.shares(self.stages)}

    def batch_tokens(self) -> int:
        return self.batch_rows * self.train_rows.row_tokens

    def batch_flops(self) -> int:
        """Those of logits only where a target counts."""
        config = replace(self.model, vocab_size=self.vocab.size)
        idle = (1 - self._counting) * 6 * config.vocab_size * config.width
        return round(self.batch_tokens() * (config.flops_per_token(self.train_rows.row_tokens) - idle))

    @cached_property
    def _counting(self) -> float:
        """The part of all positions whose targets count, by the first rows of each source."""
        counts, parts = [], []
        for source, part in mixture.shares(self.stages).items():
            if len(stored := self.train_rows.sources.get(source, ())):
                batch = packing.batch_of(stored[:COUNTED_ROWS])
                counts.append(np.mean(batch.has_target * np.where(batch.speaker == packing.USER, self.user_share, 1.0)))
                parts.append(part)
        return float(np.average(counts, weights=parts)) if parts else 1.0
