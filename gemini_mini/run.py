"""A finished run, ready to sample: the decoder, the tokenizers and their vocabulary.

    RUN/run.json           settings and hashes of what was read
    RUN/model.safetensors  weights
    RUN/tokenizers/        text.model, image.safetensors, audio.safetensors
"""

import platform
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh

from gemini_mini import config, errors, files, nn, parallel, vocab as vocabulary
from gemini_mini.model import decoder
from gemini_mini.tokenizers import bundle


class Run(NamedTuple):
    """A decoder, its tokenizers, and the settings it was trained with."""

    model: decoder.Decoder
    tokenizers: bundle.Tokenizers
    settings: dict
    folder: Path


def keep_compiled() -> None:
    """Keep compiled programs on disk, unless told where already: the next start's first token comes three times sooner."""
    cache = Path.home() / ".cache" / "gemini_mini" / platform.node()
    jax.config.update("jax_compilation_cache_dir", jax.config.jax_compilation_cache_dir or str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def check_guidance(run: Run, guidance: float) -> None:
    """Raise InputError when a run cannot be guided: it must have learned what no prompt is like."""
    if guidance != 1 and not run.settings["task"].get("hide_prompts"):
        raise errors.InputError(f"guidance: needs a model trained with null prompts, and {run.folder} is not; "
                                "train it with task.hide_prompts=0.1, or leave guidance at 1")


def load(folder: str | Path, mesh: Mesh | None = None) -> Run:
    """Read a run, its decoder cut over a mesh if one is given.

    Raises: InputError when the folder is no run, is unfinished, or mixes vocabularies.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise errors.InputError(f"{folder}: is no run folder (it has no run.json); give one that train.py made")
    if not (folder / "model.safetensors").is_file():
        raise errors.InputError(f"{folder}: has no finished model; run the training command again to finish it")
    settings = files.read_json(folder / "run.json")["settings"]
    tokenizers = bundle.load(*(folder / "tokenizers" / n for n in ("text.model", "image.safetensors", "audio.safetensors")))
    arrays, meta = files.load_arrays(folder / "model.safetensors")
    vocabulary.check(meta["vocabulary"], tokenizers.vocab.fingerprint, f"{folder}/tokenizers")
    model_config = config.from_json(decoder.DecoderConfig, settings["task"]["model"], f"{folder}/run.json")
    shape = jax.eval_shape(lambda: decoder.Decoder(replace(model_config, vocab_size=tokenizers.vocab.size), nnx.Rngs(0)))
    weights = jax.device_put(arrays, parallel.shardings(arrays, nn.axes(shape), mesh) if mesh else None)
    model = nn.with_weights(shape, weights)
    return Run(model, tokenizers, settings, folder)
