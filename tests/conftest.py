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

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402

import gemini_mini  # noqa: E402
from data_prep import digits, emoji_world, video  # noqa: E402
from data_prep import text as text_lib  # noqa: E402
from gemini_mini import config, files, nn, run  # noqa: E402
from gemini_mini.model import decoder  # noqa: E402
from gemini_mini.tokenizers import audio, bundle, image, text  # noqa: E402


def with_shortcuts(made: decoder.Decoder) -> decoder.Decoder:
    """The same weights, but that what begins at nothing, or at one, is filled."""
    rng, sizes = np.random.default_rng(0), {"token_values": nn.EMBED_STD, "again": 1, "kept": 1, "before": 1}
    filled = {name: jnp.array(rng.normal(0, sizes[name.split(".")[-1]], w.shape), jnp.float32)
              for name, w in nn.weights(made).items() if name.split(".")[-1] in sizes}
    return nn.with_weights(made, nn.weights(made) | filled)


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
    settings = decoder.DecoderConfig(depth=1, aspect=32, head_dim=16, context_tokens=128, shortcuts=True, key_offset=True)
    model = with_shortcuts(decoder.Decoder(dataclasses.replace(settings, vocab_size=vocab.size), nnx.Rngs(0)))
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


@pytest.fixture(scope="session")
def small_world() -> emoji_world.World:
    """Ten things with noise for pictures and sounds; the last is held out."""
    rng = np.random.default_rng(0)
    names = ("cat", "dog", "fish", "lemon", "key", "anchor", "cactus", "violin", "tractor", "teapot")
    split_of = ["train"] * 9 + ["valid"]
    items = [emoji_world.Item(name, split, {"en": name}, {"en": split}, (), "") for name, split in zip(names, split_of)]
    clips = [emoji_world.Clip(item, "en", speaker, split_of[item]) for item in range(10) for speaker in range(2)]
    stops = np.cumsum(rng.integers(4_000, 20_000, len(clips)))
    shots = [video.Shot(item, "up", 0, split_of[item]) for item in range(10)]
    return emoji_world.World(
        config=emoji_world.WorldConfig("test", languages=("en",), num_speakers=4, voices_per_name=1, shard_clips=99),
        fingerprint="test", items=items, pictures=rng.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8), clips=clips,
        starts=np.concatenate([[0], stops[:-1]]), stops=stops, shards=[rng.integers(-9000, 9000, stops[-1]).astype(np.int16)],
        shots=shots, frames=rng.integers(0, 256, (10, 2, 16, 16, 3)).astype(np.uint8), digits=digits.none(16),
        prose=[text_lib.Passage("train", f"Sentence {n} of the book." * 9, "book") for n in range(20)]
              + [text_lib.Passage(split, f"Never seen in {split}.", split) for split in ("valid", "test")],
        code=[text_lib.Passage("train", f"x = {n}", "x") for n in range(3)])


@pytest.fixture(scope="session")
def shapes_world() -> emoji_world.World:
    """Nine coloured shapes and two roles, as blocks of one colour each that no two share."""
    cells = [("colour", shape, colour) for shape in ("heart", "circle", "square")
             for colour in ("red", "green", "blue")]
    cells += [("role", base, gender, tone) for base in ("1f", "2f") for gender in ("man", "woman") for tone in ("light", "dark")]
    items, pixels = [], np.full((len(cells), 32, 32, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        name = " ".join(cell[:0:-1])
        items.append(emoji_world.Item(chr(65 + index), "train", {"en": name, "zh": f"画{index}"}, {"en": "train", "zh": "train"}, cell, ""))
        pixels[index, 4:28, 8:24] = (10 * index, 240 - 10 * index, 100)
    shots = [video.Shot(item, motion, variant, "test_motion" if (item + place) % 6 == 0 else "train")
             for item in range(4) for place, motion in enumerate(video.MOTIONS) for variant in range(2)]
    return emoji_world.World(
        config=emoji_world.WorldConfig("media", languages=("en", "zh")), fingerprint="media", items=items, pictures=pixels, clips=[],
        starts=np.zeros(0, np.int64), stops=np.zeros(0, np.int64), shards=[], shots=shots,
        frames=np.zeros((len(shots), 4, 16, 16, 3), np.uint8), digits=digits.none(16), prose=[], code=[])
