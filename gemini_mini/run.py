"""A finished run, ready to sample: the decoder, the tokenizers and their vocabulary.

    RUN/run.json           settings and hashes of what was read
    RUN/model.safetensors  weights
    RUN/tokenizers/        text.model, image.safetensors, audio.safetensors

Or all of it in one small file: `save_released` writes it, and `load` reads either.
Next: release.py.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gemini_mini import config, errors, files, nn, parallel, quant, vocab as vocabulary
from gemini_mini.model import decoder
from gemini_mini.tokenizers import audio, bundle, image, text


class Run(NamedTuple):
    """A decoder, its tokenizers, and the settings it was trained with; `folder` may be a released file."""

    model: decoder.Decoder
    tokenizers: bundle.Tokenizers
    settings: dict
    folder: Path


def keep_compiled() -> None:
    """Keep compiled programs on disk, unless told where already: the next start takes a third of the time, or less."""
    jax.config.update("jax_compilation_cache_dir", jax.config.jax_compilation_cache_dir or str(files.CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def check_guidance(run: Run, guidance: float) -> None:
    """Raise InputError when a run cannot be guided: it must have learned what no prompt is like."""
    if guidance != 1 and not run.settings["task"].get("hide_prompts"):
        raise errors.InputError(f"guidance: needs a model trained with null prompts, and {run.folder} is not; "
                                "train it with task.hide_prompts=0.1, or leave guidance at 1")


def load(folder: str | Path, mesh: Mesh | None = None, eight_bit: bool = False) -> Run:
    """Read a run or a released file, its decoder cut over a mesh if one is given.

    Raises: InputError when the folder is no run, is unfinished, or mixes vocabularies.
    """
    folder = Path(folder)
    if folder.is_file():
        return _load_released(folder, mesh, eight_bit)
    if not (folder / "run.json").is_file():
        raise errors.InputError(f"{folder}: is no run folder (it has no run.json); give one that train.py made")
    if not (folder / "model.safetensors").is_file():
        raise errors.InputError(f"{folder}: has no finished model; run the training command again to finish it")
    settings = files.read_json(folder / "run.json")["settings"]
    tokenizers = bundle.load(*(folder / "tokenizers" / n for n in ("text.model", "image.safetensors", "audio.safetensors")))
    arrays, meta = files.load_arrays(folder / "model.safetensors")
    vocabulary.check(meta["vocabulary"], tokenizers.vocab.fingerprint, f"{folder}/tokenizers")
    return Run(_decoder(arrays, tokenizers, settings, f"{folder}/run.json", mesh, eight_bit), tokenizers, settings, folder)


def weights_hash(run: Path) -> str:
    """Which weights a finished run or a released file has: figures and releases name it."""
    return files.hash_bytes((run if run.is_file() else run / "model.safetensors").read_bytes())


def save_released(run: Run, path: Path, card: str) -> None:
    """Write a run as one file: its weights in 8 bits, its settings, and its card.

    The tokenizers had 8 bits before anything was trained on their codes: so the codes are still the same.
    Raises: InputError where they had more, as those of earlier versions.
    """
    tokenizers = run.tokenizers
    arrays = {"text": np.frombuffer(tokenizers.text.model_proto, np.uint8)}
    for name, module in (("decoder", run.model), ("image", tokenizers.image), ("audio", tokenizers.audio)):
        if module is not run.model and not all(map(np.array_equal, nn.weights(module).values(), nn.weights(nn.rounded(module)).values())):
            raise errors.InputError(f"{run.folder}: its {name} tokenizer has more than 8 bits, and in 8 its codes would be others; "
                                    "train it and what reads its codes again")
        arrays |= {f"{name}/{key}": array for key, array in nn.packed(module).items()}
    meta = {"settings": run.settings, "digest": tokenizers.vocab.tokenizers, "vocabulary": tokenizers.vocab.fingerprint,
            "image": config.to_json(tokenizers.image.config), "audio": config.to_json(tokenizers.audio.config), "card": card}
    files.save_arrays(path, arrays, {name: json.dumps(value, ensure_ascii=False) for name, value in meta.items()})


def _load_released(path: Path, mesh: Mesh | None, eight_bit: bool) -> Run:
    arrays, meta = files.load_arrays(path)
    if not {"settings", "digest", "vocabulary", "image", "audio"} <= set(meta):
        raise errors.InputError(f"{path}: is no released model; give a file of python -m gemini_mini.release, or a run folder")
    settings, digest, vocabulary_read = (json.loads(meta[name]) for name in ("settings", "digest", "vocabulary"))
    tokenizers = bundle.of(
        text.TextTokenizer(arrays["text"].tobytes()), image.of_arrays(*quant.tokenizer("image", arrays, meta), path),
        audio.of_arrays(*quant.tokenizer("audio", arrays, meta), path), digest)
    vocabulary.check(vocabulary_read, tokenizers.vocab.fingerprint, str(path))
    model = _decoder(quant.under("decoder", arrays), tokenizers, settings, str(path), mesh, eight_bit)
    return Run(model, tokenizers, settings, path)


def _decoder(
    arrays: dict[str, np.ndarray], tokenizers: bundle.Tokenizers, settings: dict, where: str, mesh: Mesh | None, eight_bit: bool
) -> decoder.Decoder:
    model_config = config.from_json(decoder.DecoderConfig, {"shortcuts": False, "key_offset": False} | settings["task"]["model"], where)  # runs of before had none
    if model_config.attention == "splash":  # a TPU's kernel, which XLA cannot cut over a mesh by itself; the same attention
        model_config = replace(model_config, attention="blockwise")
    shape = decoder.Decoder(replace(model_config, vocab_size=tokenizers.vocab.size), nn.Shapes())
    if eight_bit and mesh:
        raise errors.InputError("--eight-bit: is for one device; do without it, or without --mesh")
    weights = jax.device_put(arrays, parallel.shardings(arrays, nn.axes(shape), mesh) if mesh else None)
    model = nn.with_weights(shape, weights)
    return nn.eight_bit(model) if eight_bit else model
