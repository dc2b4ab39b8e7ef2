"""sample.py as a person runs it: what it writes, and one sentence for every mistake."""

import base64
import dataclasses
import html.parser
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

import sample as sample_py
from gemini_mini import api, errors, run, stream, talk, vocab as vocabulary
from gemini_mini.decode import options, page, prompt, terminal

REPOSITORY = Path(__file__).parents[1]


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
    assert "tokens; first after" in first.stderr and "tokens/s" in first.stderr
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
        ((run_folder, "hello", "--image-size", "30x32"), "image size: must be WIDTHxHEIGHT, both multiples of 4"),
        ((run_folder, "hello", "--guidance", "2"), "train it with task.hide_prompts=0.1"),
        ((run_folder, "--interactive", "--num-samples", "2"), "--num-samples: is for one prompt"),
        ((run_folder, "hello", "--interactive"), "only one of them can say what to answer"),
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
    assert prompt.read(["red", "/", "blue", "..."], patch=4) == [stream.Text("red / blue ...")]
    assert parts[0].text == "two words" and parts[1].pixels.shape == (16, 32, 3)
    assert parts[3].seconds.tolist() == [0.0, 0.5]
    # A sound is as loud as speech in training: -18 dB of full scale, whatever it was.
    assert len(parts[5].samples) == 4000 and abs(10 * np.log10(np.mean(parts[5].samples**2)) + 18) < 0.1
    PIL.Image.open(media / "red.png").save(media / "still.gif")
    (still,) = prompt.read([str(media / "still.gif")], patch=4)  # of one frame: a picture
    np.testing.assert_array_equal(still.pixels, parts[1].pixels)
    soundfile.write(media / "silent.wav", np.zeros(4000), 16_000)
    with pytest.raises(errors.InputError, match="silent.wav: is silent"):
        prompt.read([str(media / "silent.wav")], patch=4)


def test_films_are_read_at_equal_steps_or_the_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no film")
    with monkeypatch.context() as patch, pytest.raises(errors.InputError, match=r"clip.mp4: films need PyAV.*\[video\]"):
        patch.setattr("importlib.util.find_spec", lambda name: None)
        prompt.check([str(path)])
    av = pytest.importorskip("av")
    with pytest.raises(errors.InputError, match="clip.mp4: cannot be read as a film"):
        prompt.read([str(path)], patch=4)
    greys = np.linspace(20, 220, 7).astype(np.uint8)
    with av.open(str(path), "w") as film:
        video = film.add_stream("mpeg4", rate=2)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        for grey in greys:
            film.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 64, 3), grey), format="rgb24")))
        film.mux(video.encode())
    (clip,) = prompt.read([str(path)], patch=4)
    assert clip.frames.shape == (4, 8, 16, 3) and clip.seconds.tolist() == [0, 1, 2, 3]  # frames 0, 2, 4 and 6 at 2 a second
    np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), greys[::2], atol=4)  # the codec loses a little


@pytest.mark.parametrize("word", ["draw a cat.", "", "a" * 5000, "Is 3.5 > 2?", "tell me about v1.2", "a\0b"])
def test_text_is_used_as_given(word):
    assert prompt.read([word], patch=4) == [stream.Text(word)]


def test_files_that_cannot_be_read_are_named(media):
    for word, sentence in ((media / "gone.wav", "no such file"), (media / "GONE.JPG", "no such file"),
                           (media / "notes.txt", "of no kind"), (media.parent, "holds no pictures")):
        with pytest.raises(errors.InputError, match=sentence) as caught:
            prompt.check([str(word)])
        assert str(word) in str(caught.value)


def test_options_are_the_samplers_settings():
    whole = options.Options(temperature=0, top_p=1, image={"temperature": 0.7}, text={"top_p": 0.9}).settings(patch=4)
    assert (whole.image.temperature, whole.text.top_p, whole.text.temperature) == (0.7, 0.9, 0)
    chosen = options.Options(temperature=0.5, top_p=0.9, image={"temperature": 1, "top_k": 5}, image_size="32x16", guidance=2.0,
                             modalities=("image", "audio"))
    settings = chosen.settings(patch=4)
    assert (settings.rules.widths, settings.rules.heights) == ((8,), (4,))
    assert (settings.rules.has_text, settings.rules.has_images, settings.rules.has_audio, settings.rules.has_video) == (
        False, True, True, False)
    assert (settings.text.temperature, settings.text.top_k, settings.audio.top_p) == (0.5, 0, 0.9)
    assert (settings.image.temperature, settings.image.top_k, settings.image.top_p) == (1, 5, 0.9)


@pytest.mark.parametrize("bad, sentence", [
    *(({"image_size": size}, "WIDTHxHEIGHT") for size in ("32", "x", "0x32", "33x32", "132x32", "32x-4", "a×b")),
    ({"image": {"heat": 1}}, "image: must be some of temperature, .* got heat"), ({"text": {"top_p": 2}}, "top_p must be"),
    ({"modalities": ("text", "smell")}, "modalities: must be some of"), ({"best_of": 0}, "best_of"), ({"named": "cat"}, "named: chooses among several"),
    ({"named": " ", "best_of": 2}, "named: must be words"), ({"seed": -1}, "seed"),
    ({"image": {"top_k": 0.5}}, "image: top_k must be a whole number, got 0.5"), ({"image": {"top_k": float("nan")}}, "whole number"),
    ({"guidance": -1.0}, "guidance")])
def test_bad_options_are_named(bad, sentence):
    with pytest.raises(errors.InputError, match=sentence):
        options.Options(**bad).settings(patch=4)


def test_typewriter_waits_for_whole_characters_and_parts():
    vocab, shown = vocabulary.Vocab(256, 8, 8, "bytes"), []
    show = lambda part: shown.append(f"<{type(part).__name__} {part.codes.tolist()}>")
    writer = terminal.Typewriter(vocab, lambda ids: bytes(ids.tolist()).decode(errors="replace"), shown.append, show)
    for byte in "né🐈!".encode():
        writer.add(np.array([byte + vocab.text_start], np.int32))
        assert "\ufffd" not in "".join(shown)
    size, code, end = vocabulary.size_id, vocab.image_start, vocabulary.EOL
    writer.add(np.array([vocabulary.BOI, size(2), size(1), code + 3, end], np.int32))
    assert "".join(shown) == "né🐈!", "half a picture is not shown"
    writer.add(np.array([code + 5, end, vocabulary.EOI, vocabulary.BOA, vocab.audio_start + 7, vocabulary.EOA], np.int32))
    writer.add(np.array([*(np.array(list(b"then \xff")) + vocab.text_start), vocabulary.EOS], np.int32))
    assert "".join(shown) == "né🐈!<Grid [[3], [5]]><Sound [7]>then \ufffd"


def test_terminal_is_not_commanded_by_an_answer():
    assert terminal.printable("a\x1b]0;title\x07\tb\n\u202e") == "a\ufffd]0;title\ufffd\tb\n\ufffd"
    for text in ("می\u200cشود", "👩\u200d🚀", "10\u202f%", "全\u3000角"):
        assert terminal.printable(text) == text, "joiners and spaces belong to words"


def test_terminal_picture_has_half_the_lines():
    lines = terminal.blocks(np.full((5, 3, 3), 7, np.uint8)).splitlines()
    assert len(lines) == 3 and all(line.count("▀") == 3 for line in lines)
    for line, upper, lower in zip(terminal.blocks(RAINBOW).splitlines(), RAINBOW[::2], [*RAINBOW[1::2], RAINBOW[-1]], strict=True):
        colours = np.array(re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", line), int)
        assert np.array_equal(colours, np.hstack([upper, lower])) and line.endswith("\x1b[0m"), "and the next line is not coloured"


RAINBOW = np.random.default_rng(0).integers(0, 2, (5, 7, 3)).astype(np.uint8) * np.uint8(255)  # 0 and 255 only: exact in percent


def test_kitty_and_iterm_are_sent_the_picture_as_png():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    commands = terminal.picture(noise, "kitty").removesuffix("\n").split("\x1b\\")[:-1]
    heads, chunks = zip(*(command.removeprefix("\x1b_G").split(";") for command in commands))
    assert heads[0] == "a=T,f=100,q=2,m=1" and set(heads[1:-1]) == {"m=1"} and heads[-1] == "m=0"
    assert max(map(len, chunks)) <= 4096 and len(chunks) > 2
    head, data = terminal.picture(noise, "iterm").removesuffix("\x07\n").split(":")
    assert head == "\x1b]1337;File=inline=1;width=256px;height=256px"
    for encoded in ("".join(chunks), data):
        shown = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))))
        assert (shown == noise.repeat(4, 0).repeat(4, 1)).all()


def read_sixel(text):
    """Pixels of a sixel picture, by the terminal's rules."""
    raster, body = re.fullmatch(r'\x1bPq"1;1;(\d+;\d+)(.*)\x1b\\', text).groups()
    width, height = map(int, raster.split(";"))
    canvas, palette, colour, x, top = np.zeros((height + 6, width, 3)), {}, None, 0, 0
    for number, rgb, count, char in re.findall(r"#(\d+)(?:;2;([\d;]+))?|(?:!(\d+))?([?-~]|[$-])", body):
        if rgb:
            palette[number] = np.array([int(c) * 2.55 for c in rgb.split(";")])
        elif number:
            colour = palette[number]
        elif char in "$-":
            x, top = 0, top + 6 * (char == "-")
        else:
            for _ in range(int(count or 1)):
                for bit in range(6):
                    if (ord(char) - 63) >> bit & 1:
                        canvas[top + bit, x] = colour
                x += 1
    return canvas[:height]


def test_sixel_is_read_back_by_its_rules():
    image = PIL.Image.fromarray(RAINBOW.repeat(3, 0))
    np.testing.assert_allclose(read_sixel(terminal.sixel(image)), np.asarray(image), atol=0.01)


def test_protocol_is_what_the_terminal_says(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    for environment, expected in (
        ({"TERM": "xterm-kitty"}, "kitty"), ({"TERM_PROGRAM": "iTerm.app"}, "iterm"), ({"COLORTERM": "truecolor"}, "blocks"),
        ({"TERM": "xterm-kitty", "TMUX": "1", "COLORTERM": "24bit"}, "blocks"), ({"TERM": "dumb"}, "none"),
    ):
        assert terminal.protocol(environment) == expected
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "fileno", lambda: 7, raising=False)
    for has_sixel, expected in ((lambda fd: fd == 7, "sixel"), (lambda fd: False, "blocks")):
        monkeypatch.setattr(terminal, "has_sixel", has_sixel)
        assert terminal.protocol({"TERM": "xterm", "COLORTERM": "truecolor"}) == expected
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert terminal.protocol({"TERM": "xterm-kitty"}) == "none"


@pytest.mark.parametrize("answer, expected", [(b"\x1b[?62;4;22c", True), (b"\x1b[?62;14;22c", False), (b"", False)])
def test_a_terminal_is_asked_for_sixel(answer, expected):
    ours, theirs = pty.openpty()
    try:
        asked = threading.Thread(target=lambda: os.read(ours, 64) == b"\x1b[c" and os.write(ours, answer))
        asked.start()
        assert terminal.has_sixel(theirs) is expected
        asked.join()
    finally:
        os.close(ours), os.close(theirs)


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


# --- the command inside this process: programs, batches, a chat -------------------------------


@pytest.fixture
def command(run_folder, tmp_path, monkeypatch, capsys):
    """Run sample.py with words and standard input; what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "keep_compiled", lambda: None)

    def call(*words, typed=""):
        monkeypatch.setattr(sys, "argv", ["sample.py", str(run_folder), *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        sample_py.main()
        return capsys.readouterr().out

    return call


SHORT = ("--max-tokens", "24", "--image-size", "8x8", "--temperature", "1")


def test_json_is_the_answer_in_parts_and_stdin_gives_the_prompt(command, tmp_path, media):
    how = ("--num-samples", 2, "--modalities", "image", *SHORT)
    lines = command("--json", *how, typed=f"draw\n\n{media / 'red.png'}\n").splitlines()
    assert len(lines) == 2
    for index, line in enumerate(map(json.loads, lines)):
        assert line["prompt"] == ["draw", str(media / "red.png")] and line["index"] == index and line["logprob"] < 0
        for part in line["answer"]:
            assert PIL.Image.open(tmp_path / part["picture"]).size == (8, 8)
    assert any("picture" in part for line in map(json.loads, lines) for part in line["answer"])
    shown = Page((tmp_path / "out/tiny-1/index.html").read_text())
    assert len(shown.sources("img")) == 1 + sum("picture" in p for line in map(json.loads, lines) for p in line["answer"])
    # A person reads the same answer, with the same picture, which the terminal shows.
    told = command("draw", media / "red.png", *how, "--pictures", "kitty")
    assert all(part["picture"].replace("tiny-1", "tiny-2") in told for part in json.loads(lines[0])["answer"])
    assert (tmp_path / "out/tiny-1/picture-1.png").read_bytes() == (tmp_path / "out/tiny-2/picture-1.png").read_bytes()
    assert terminal.picture(np.asarray(PIL.Image.open(tmp_path / "out/tiny-2/picture-1.png")), "kitty") in told


def test_a_sound_is_written_and_named(command, tmp_path):
    lines = command("say it", "--json", "--modalities", "audio", "--num-samples", 2, "--seed", 1, *SHORT).splitlines()
    named = [part["sound"] for line in map(json.loads, lines) for part in line["answer"]]
    assert named and named == [f"out/tiny-1/sound-{number + 1}.wav" for number in range(len(named))]
    samples, rate_hz = soundfile.read(tmp_path / "out/tiny-1/sound-1.wav")
    assert rate_hz == 16_000 and len(samples) > 640 and np.abs(samples).max() > 0
    assert len(Page((tmp_path / "out/tiny-1/index.html").read_text()).sources("audio")) == len(named)


def test_a_batch_answers_every_line(command, tmp_path, media, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(f'"one"\n["two", "{media / "red.png"}"]\n\n{{"parts": ["three"]}}\n')
    lines = [json.loads(line) for line in command("--prompts", prompts, *SHORT).splitlines()]
    assert {line["index"]: line["prompt"][0] for line in lines} == {0: "one", 1: "two", 2: "three"} and len(lines) == 3
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    prompts.write_text("\n".join(json.dumps(parts) for parts in (["look", str(broken)], "four", "hello " * 2000)))
    with pytest.raises(errors.InputError, match="2 of 3 prompts cannot be read"):
        command("--prompts", prompts, *SHORT)
    first, third, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert third["index"] == 2 and "tokens, and the model reads" in third["error"]
    assert first["index"] == 0 and "broken.png: " in first["error"] and second["index"] == 1 and second["prompt"] == ["four"] and "error" not in second
    prompts.write_text('"half \\ud83d"\n"whole"')
    with pytest.raises(errors.InputError, match="1 of 2 prompts cannot be read"):
        command("--prompts", prompts, *SHORT)
    half, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert "surrogate" in half["error"] and whole["prompt"] == ["whole"] and "error" not in whole
    for bad, sentence in (("{", "line 1: must be JSON"), ('"a"\n[1]', "line 2: must be a text, a list"), ("", "holds no prompt"),
                          ('["x", "gone.png"]', "line 1: gone.png: no such file")):
        prompts.write_text(bad)
        with pytest.raises(errors.InputError, match=sentence):
            command("--prompts", prompts)
    prompts.write_bytes(b'"caf\xe9"')
    with pytest.raises(errors.InputError, match="must be text in UTF-8"):
        command("--prompts", prompts)
    with open(prompts, encoding="utf-8") as file, pytest.raises(errors.InputError, match="standard input: must be text in UTF-8"):
        talk.read_lines(file)


def test_a_stopped_batch_tells_what_is_answered_and_keeps_whole_pictures(command, tmp_path, monkeypatch):
    """Ctrl-C as soon as the first answer of a batch of one row at a time is told: the others have no line and no place on the page."""
    prompts, tell = tmp_path / "prompts.jsonl", talk.Talk._print_json
    prompts.write_text('"draw one"\n"draw two"\n"draw three"\n')

    def interrupted(self, *given):
        tell(self, *given)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(talk.Talk, "_print_json", interrupted)
    made = options.Options.settings
    monkeypatch.setattr(options.Options, "settings", lambda self, patch: dataclasses.replace(made(self, patch), batch_rows=1))
    (line,) = map(json.loads, command("--prompts", prompts, "--modalities", "image", "--max-tokens", "60", "--seed", "1", *SHORT[2:]).splitlines())
    assert line["stopped"] is False and PIL.Image.open(tmp_path / line["answer"][0]["picture"]).size == (8, 8)
    shown = (tmp_path / "out/tiny-1/index.html").read_text()
    assert line["prompt"][0] in shown and [f"draw {n}" in shown for n in ("one", "two", "three")].count(True) == 1
    assert len(Page(shown).sources("img")) == sum("picture" in part for part in line["answer"])


@pytest.mark.slow
def test_on_a_mesh_the_answer_is_the_same(command):
    alone, meshed = (json.loads(command("draw", "--json", *SHORT, *mesh)) for mesh in ((), ("--mesh", "0,1,2,1")))
    differing = {"answer", "logprob"}  # the folder; rounding
    assert {k: v for k, v in alone.items() if k not in differing} == {k: v for k, v in meshed.items() if k not in differing}
    assert [part.get("text") for part in alone["answer"]] == [part.get("text") for part in meshed["answer"]]
    with pytest.raises(errors.InputError, match="must multiply to 8 devices"):
        command("draw", "--mesh", "3,1,1,1")


def test_a_chat_remembers_and_survives_mistakes(command, tmp_path, capsys, monkeypatch):
    prompts, answer = [], api.Model.answer

    def spy(self, ids, *rest):
        prompts.append(ids[0])
        return answer(self, ids, *rest)

    monkeypatch.setattr(api.Model, "answer", spy)
    said = command("--interactive", "--json", *SHORT, typed="hello\nlook at gone.png\nand now\n/new\nagain\n/quit\nnever\n")
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["prompt"] for line in lines] == [["hello"], ["and", "now"], ["again"]]
    assert prompts[1][: len(prompts[0])].tolist() == prompts[0].tolist() and len(prompts[2]) < len(prompts[1])
    turns = [attributes["class"] for tag, attributes in Page((tmp_path / "out/tiny-1/index.html").read_text()).tags
             if attributes.get("class", "").startswith("turn")]
    assert turns == ["turn user", "turn model"] * 3


def test_a_typed_line_may_name_files_with_spaces():
    assert prompt.split(r"  what is   my\ cat.png ? ") == ["what", "is", "my cat.png", "?"]


def test_typed_bytes_that_are_no_text_are_refused(monkeypatch):
    monkeypatch.setattr(talk.sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\ncaf\xe9\n"), encoding="utf-8"))
    with pytest.raises(errors.InputError, match="standard input: must be text in UTF-8"):
        list(talk.typed_lines())


def test_ctrl_c_keeps_whole_parts_and_twice_ends(command, tmp_path, monkeypatch):
    before, add = signal.getsignal(signal.SIGINT), terminal.Typewriter.add

    def interrupted(self, tokens):
        add(self, tokens)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal.Typewriter, "add", interrupted)
    (line,) = map(json.loads, command("hello", "--json", *SHORT).splitlines())
    assert line["stopped"] is True and line["tokens"] <= 2 and (tmp_path / "out/tiny-1/index.html").is_file()
    with pytest.raises(KeyboardInterrupt), talk.Stop():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def interrupted(words, cwd, is_time):
    """Start sample.py, send SIGINT once `is_time(its process, what it has written)`; its exit code and what it wrote to both ends."""
    command = [sys.executable, str(REPOSITORY / "sample.py"), *map(str, words)]
    environment = os.environ | {"HOME": str(cwd), "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    environment.pop("PYTHONUNBUFFERED", None)
    said = b""
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.set_blocking(process.stdout.fileno(), False)
        while not is_time(process.pid, said) and process.poll() is None:
            said += process.stdout.read() or b""
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        os.set_blocking(process.stdout.fileno(), True)
        rest, fault = process.communicate(timeout=300)
    return process.returncode, said + rest, fault.decode()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_an_answer_and_the_imports_before_it(run_folder, tmp_path):
    imports = lambda pid, said: "libjax" in Path(f"/proc/{pid}/maps").read_text()
    code, said, fault = interrupted((run_folder, "hello"), tmp_path, imports)
    assert code == -signal.SIGINT and not said and not fault, "while it imports: as the shell ends a program"
    long = (run_folder, "hello", "--num-samples", 400, "--max-tokens", 60, "--temperature", 1.5)
    code, said, fault = interrupted(long, tmp_path, lambda pid, said: bool(said))
    assert code == 0 and "stopping; " in fault and "Traceback" not in fault, fault
    assert b"\n[400] " not in said, "what was said before the end was written before the end"
    assert said.decode()[:4] in Page((tmp_path / "out/tiny-1/index.html").read_text()).words


def test_a_reader_that_goes_away_is_no_fault(tmp_path):
    script = "import sys\nfrom gemini_mini import errors\nerrors.run(lambda: [print('line') for _ in range(100_000)])"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 128 + signal.SIGPIPE


@pytest.mark.slow
def test_a_chat_on_a_terminal(run_folder, tmp_path):
    """With a mark to type after, an answer to each line, and sampling of pictures alone set otherwise."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(REPOSITORY / "sample.py"), str(run_folder), "--interactive", "--pictures", "none", *SHORT,
               "--image", "temperature=0.5,top-k=3"]
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "TERM": "dumb"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        said = b""
        for marks, line in ((1, b"hello\n"), (2, b"and now\n"), (3, b"/quit\n")):
            while said.count(b"> ") < marks:
                said += os.read(ours, 4096)
            os.write(ours, line)
        assert process.wait(60) == 0
    os.close(ours)
    turns = [attributes["class"] for tag, attributes in Page((tmp_path / "out/tiny-1/index.html").read_text()).tags
             if attributes.get("class", "").startswith("turn")]
    assert turns == ["turn user", "turn model"] * 2


def test_what_ignores_ctrl_c_goes_on_ignoring_it():
    """As a command that a script starts with `&`; any other ends quietly while it imports, and by an exception after."""
    before = signal.getsignal(signal.SIGINT)
    try:
        for given, importing, running in ((signal.SIG_IGN, signal.SIG_IGN, signal.SIG_IGN),
                                          (signal.default_int_handler, signal.SIG_DFL, signal.default_int_handler)):
            signal.signal(signal.SIGINT, given)
            errors.end_quietly()
            assert signal.getsignal(signal.SIGINT) is importing
            errors.run(lambda: None)
            assert signal.getsignal(signal.SIGINT) is running
    finally:
        signal.signal(signal.SIGINT, before)
