"""Every test runs on 8 virtual CPU devices with every annotation of the package checked."""

import os
from importlib import metadata

FLAGS = os.environ.get("XLA_FLAGS", "")
if "device_count" not in FLAGS:  # a process of several that share a test has fewer
    FLAGS += " --xla_force_host_platform_device_count=8"
if "optimization_level=0" in FLAGS and metadata.version("jaxlib").startswith("0.10."):  # a later one refuses the name
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = FLAGS
os.environ["JAX_PLATFORMS"] = "cpu"

import jaxtyping  # noqa: E402

jaxtyping.install_import_hook("gemini_mini", "beartype.beartype")

import dataclasses  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402

import gemini_mini  # noqa: E402
from gemini_mini import config, files, nn, run  # noqa: E402
from gemini_mini.model import decoder  # noqa: E402
from gemini_mini.tokenizers import audio, bundle, image, text  # noqa: E402


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A run with random weights: it answers nonsense, but by the whole path."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    names = [folder / "tokenizers" / name for name in ("text.model", "image.safetensors", "audio.safetensors")]
    files.write_bytes(names[0], text.train(["a cat and a dog, draw them: déjà 🐈"] * 9, 300).model_proto)
    image.save(image.ImageTokenizer(image.ImageTokenizerConfig(num_codes=16, width=72, hidden=16), nnx.Rngs(0)), names[1])
    audio.save(audio.AudioTokenizer(
        audio.AudioTokenizerConfig(width=16, heads=2, layers=1, hidden=16, num_codes=8), nnx.Rngs(0)), names[2])
    vocab = bundle.load(*names).vocab
    settings = decoder.DecoderConfig(depth=1, aspect=32, head_dim=16, context_tokens=128)
    model = decoder.Decoder(dataclasses.replace(settings, vocab_size=vocab.size), nnx.Rngs(0))
    files.write_json(folder / "run.json", {"settings": {"task": {"model": config.to_json(settings)}}})
    files.save_arrays(folder / "model.safetensors", {name: np.asarray(w) for name, w in nn.weights(model).items()},
                      {"vocabulary": vocab.fingerprint})
    return folder


@pytest.fixture(scope="session")
def model(run_folder):
    """As `gemini_mini.load` gives it, but nothing is kept in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "keep_compiled", lambda: None)
        return gemini_mini.load(run_folder)
