"""sample.py as a person runs it: what it writes, and one sentence for every mistake."""

import dataclasses
import html.parser
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
from flax import nnx

from gemini_mini import config, errors, files, nn, stream, vocab as vocabulary
from gemini_mini.decode import page, prompt, terminal
from gemini_mini.model import decoder
from gemini_mini.tokenizers import audio, bundle, image, text

REPOSITORY = Path(__file__).parents[1]


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
def media(tmp_path_factory):
    """A picture, a sound and a clip."""
    folder = tmp_path_factory.mktemp("media")
    red, blue = PIL.Image.new("RGB", (40, 20), "red"), PIL.Image.new("RGB", (40, 20), "blue")
    red.save(folder / "red.png")
    red.save(folder / "clip.gif", save_all=True, append_images=[blue], duration=500)
    (folder / "frames").mkdir()
    red.save(folder / "frames" / "1.png")
    blue.save(folder / "frames" / "2.png")
    soundfile.write(folder / "tone.wav", 0.1 * np.sin(np.arange(4000) / 5), 16_000)
    (folder / "notes.txt").write_text("hello")
    return folder


def sample(*words, cwd):
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "sample.py"), *map(str, words)], cwd=cwd, capture_output=True, text=True,
        timeout=300, env=os.environ | {"HOME": str(cwd), "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""})


class Page(html.parser.HTMLParser):
    """Tags by name and the text between them; checks that every tag is closed."""

    VOID = frozenset(("meta", "img", "br"))

    def __init__(self, source):
        super().__init__()
        self.tags, self.words, self.open = [], "", []
        self.feed(source)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def sources(self, tag):
        return [attributes["src"] for name, attributes in self.tags if name == tag]


@pytest.mark.slow
def test_answer_lands_on_the_terminal_and_in_a_fresh_page(run_folder, media, tmp_path):
    words = (run_folder, "look <here>:", media / "red.png", "and", media / "clip.gif", media / "tone.wav",
             "--num-samples", 2, "--max-tokens", 40, "--image-size", "8x4", "--temperature", 1.5)
    first, second = sample(*words, cwd=tmp_path), sample(*words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "first token after" in first.stderr and "tokens/s" in first.stderr
    shown = Page((tmp_path / "out/tiny-1/index.html").read_text())
    assert "look <here>:" in shown.words and "40 out" not in shown.words
    assert len(shown.sources("audio")) == 1 and shown.sources("audio")[0].startswith("data:audio/wav;base64,UklGR")
    pictures = sorted((tmp_path / "out/tiny-1").glob("*.png"))
    assert len(shown.sources("img")) == 1 + 2 + len(pictures)
    assert all(PIL.Image.open(path).size == (8, 4) for path in pictures)
    # The same command again: the same answer, in another folder.
    assert second.stdout.replace("tiny-2", "tiny-1") == first.stdout
    assert [path.read_bytes() for path in pictures] == [
        path.read_bytes() for path in sorted((tmp_path / "out/tiny-2").glob("*.png"))]


@pytest.mark.slow
def test_mistakes_are_one_sentence_and_exit_code_2(run_folder, media, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept.txt").write_text("mine")
    for words, sentence in (
        ((run_folder, "what?", "missing.png"), "missing.png: no such file"),
        ((tmp_path, "hello"), "is no run folder"),
        ((run_folder, "hello", "--out", "full"), "full: must be new or empty"),
        ((run_folder, "hello", "--image-size", "30x32"), "--image-size: must be WIDTHxHEIGHT, both multiples of 4"),
        ((run_folder, "hello", "--top-p", "2"), "top_p must be above 0 and at most 1, got 2.0"),
        ((run_folder, "hello " * 200), "shorten the prompt"),
    ):
        result = sample(*words, cwd=tmp_path)
        assert result.returncode == 2 and not result.stdout.strip(), result
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and sentence in result.stderr
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left in (["full"], [".cache", "full"]), "a mistake must leave nothing"


@pytest.mark.slow
def test_help_teaches_by_example(tmp_path):
    result = sample("--help", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.count("python sample.py runs/demo") >= 4


def test_words_become_parts(media):
    parts = prompt.read(["two", "words", str(media / "red.png"), "then", str(media / "clip.gif"),
                         str(media / "frames"), str(media / "tone.wav")], patch=4)
    assert [type(part) for part in parts] == [
        stream.Text, stream.Image, stream.Text, stream.Video, stream.Video, stream.Audio]
    assert parts[0].text == "two words" and parts[1].pixels.shape == (16, 32, 3)
    assert parts[3].seconds.tolist() == [0.0, 0.5]
    assert len(parts[5].samples) == 4000


@pytest.mark.parametrize("word", ["draw a cat.", "", "a" * 5000, "Is 3.5 > 2?", "tell me about v1.2", "a\0b"])
def test_text_is_used_as_given(word):
    assert prompt.read([word], patch=4) == [stream.Text(word)]


def test_files_that_cannot_be_read_are_named(media):
    for word, sentence in ((media / "gone.wav", "no such file"), (media / "GONE.JPG", "no such file"),
                           (media / "notes.txt", "of no kind"), (media.parent, "holds no pictures")):
        with pytest.raises(errors.InputError, match=sentence) as caught:
            prompt.check([str(word)])
        assert str(word) in str(caught.value)


def test_image_size_is_width_by_height():
    rules = prompt.drawing_rules("32x16", patch=4)
    assert (rules.widths, rules.heights) == ((8,), (4,))
    for bad in ("32", "x", "0x32", "33x32", "132x32", "32x-4", "a×b"):
        with pytest.raises(errors.InputError, match="WIDTHxHEIGHT"):
            prompt.drawing_rules(bad, patch=4)


def test_typewriter_waits_for_whole_characters():
    vocab, shown = vocabulary.Vocab(256, 8, 8, "bytes"), []
    writer = terminal.Typewriter(vocab, lambda ids: bytes(ids.tolist()).decode(errors="replace"), shown.append)
    for byte in "né🐈!".encode():
        writer.add(np.array([byte + vocab.text_start], np.int32))
        assert "\ufffd" not in "".join(shown)
    writer.add(np.array([vocabulary.BOI, vocabulary.size_id(1)], np.int32))
    writer.add(np.array([*(np.array(list(b"then \xff")) + vocab.text_start), vocabulary.EOS], np.int32))
    assert "".join(shown) == "né🐈![picture]then \ufffd"


def test_terminal_is_not_commanded_by_an_answer():
    assert terminal.printable("a\x1b]0;title\x07\tb\n") == "a\ufffd]0;title\ufffd\tb\n"


def test_terminal_picture_has_half_the_lines():
    lines = terminal.picture(np.full((5, 3, 3), 7, np.uint8)).splitlines()
    assert len(lines) == 3 and all(line.count("▀") == 3 for line in lines)


def test_page_is_self_contained_and_safe(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    document = [stream.Text('<script>"&'), stream.Image(pixels), stream.Role("model"),
                stream.Video(np.stack([pixels] * 2), np.array([0, 1.5], np.float32)),
                stream.Audio(np.array([0.0, 2.0, -2.0], np.float32)), stream.Role("user"), stream.Role("model")]
    page.write(tmp_path / "new/page.html", "a < b", page.conversation(document) + page.table([["x", "y"]], ["1", "2"]))
    shown = Page((tmp_path / "new/page.html").read_text())
    assert '<script>"&' in shown.words and "script" not in [tag for tag, _ in shown.tags] and "1.5 s" in shown.words
    assert len(shown.sources("img")) == 3 and all(
        source.startswith("data:") for source in shown.sources("img") + shown.sources("audio"))
    assert "(no answer)" in shown.words
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_folders_are_never_reused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [page.fresh_folder(None, "demo").name for _ in range(3)] == ["demo-1", "demo-2", "demo-3"]
    page.fresh_folder(tmp_path / "mine", "demo").joinpath("file").touch()
    with pytest.raises(errors.InputError, match="must be new or empty"):
        page.fresh_folder(tmp_path / "mine", "demo")
