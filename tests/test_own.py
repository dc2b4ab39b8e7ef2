"""Laws of own data: every file is used or named, nothing straddles splits, the order of parts and both directions are kept."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

from data_prep import own, own_check, own_documents, own_files, pack, worlds
from gemini_mini import errors, files, stream, vocab as vocabulary
from gemini_mini.config import load as load_config
from gemini_mini.data import mixture, rows
from gemini_mini.tasks import audio_tokenizer, image_tokenizer
from gemini_mini.tokenizers import audio_io, image_io, text

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
BROKEN = ("bad.png", "bad.jpg", "cut.png", "empty.wav", "silent.wav", "long.wav", "noise.wav", "binary.txt", "blank.txt",
          "latin.txt", "film.mp4", "notes.pdf", "gone.png", "again")


def drawn(colour: str, size: tuple[int, int] = (60, 40), inner: float = 0.3) -> Image.Image:
    """A disc on nothing: red, green, blue and alpha."""
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    x, y, r = size[0] / 2, size[1] / 2, inner * min(size)
    ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return picture


def tone(hertz: float, seconds: float = 0.6, rate_hz: int = 44_100) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate_hz)) / rate_hz)


def said(document: stream.Document) -> list[str]:
    return [part.text for part in document if isinstance(part, stream.Text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 labelled pictures of a few shapes, a picture saved in every way, recordings, clips, a story, and broken files."""
    root = tmp_path_factory.mktemp("mine")
    for place in range(40):
        picture = drawn(COLOURS[place % 6], (20 + 3 * place, 140 - 3 * place), 0.1 + place / 120)
        picture.save(root / f"disc{place:02d}.png")
        (root / f"disc{place:02d}.en.txt").write_text(f"a {COLOURS[place % 6]} disc, number {place}")
        (root / f"disc{place:02d}.ru.txt").write_text(f"круг номер {place}", encoding="utf-16" if place % 2 else "utf-8-sig")
        if place % 4 == 0:
            stereo = np.stack([tone(300 + 20 * place), 0.5 * tone(300 + 20 * place)], 1) * 10 ** (-place / 20)
            soundfile.write(root / f"disc{place:02d}.wav", stereo, 44_100)
    picture = drawn("teal", (200, 120), 0.4)
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    for name, image in {"a.png": picture, "b.webp": picture, "c.jpg": white, "d.bmp": white, "e.tiff": white.convert("CMYK"),
                        "f.png": picture.resize((500, 300)), "g.gif": white}.items():
        image.save(root / f"same_{name}")
        (root / f"same_{name[0]}.txt").write_text(f"saved as {name}")
    turned = Image.Exif()
    turned[0x0112] = 6
    white.rotate(90, expand=True).save(root / "same_h.jpg", exif=turned, quality=95)

    shots = [drawn("navy", (40, 40), 0.1 * n).convert("RGB") for n in range(1, 5)]
    shots[0].save(root / "grows.gif", save_all=True, append_images=shots[1:], duration=500)
    (root / "walk").mkdir()
    for n, shot in enumerate(shots):
        shot.rotate(180).convert("L").save(root / "walk" / f"{n}.png")
    (root / "walk.txt").write_text("it walks")
    (root / "grows.txt").write_text("it grows")
    (root / "story.txt").write_text("Once upon a time. " * 300)

    (root / "bad.png").write_bytes(b"<html>404</html>")
    (root / "bad.jpg").write_bytes(b"")
    (root / "cut.png").write_bytes((root / "disc00.png").read_bytes()[:60])
    (root / "empty.wav").write_bytes(b"")
    soundfile.write(root / "silent.wav", np.zeros(20_000), 44_100)
    soundfile.write(root / "long.wav", tone(200, 11, 8_000), 8_000)
    (root / "noise.wav").write_bytes(np.random.default_rng(0).bytes(2_000))
    (root / "binary.txt").write_bytes(bytes(range(1, 128)))
    (root / "blank.txt").write_text(" \n")
    (root / "latin.txt").write_bytes("café".encode("latin-1"))
    for name in ("film.mp4", "notes.pdf", ".hidden"):
        (root / name).write_bytes(b"x")
    (root / "gone.png").symlink_to(root / "nowhere")
    for ending in ("png", "en.txt", "ru.txt"):
        shutil.copy(root / f"disc01.{ending}", root / f"disc01again.{ending}")
    return root


@pytest.fixture(scope="module")
def world_folder(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "world"
    assert own.build(folder, out)
    return out


@pytest.fixture(scope="module")
def world(world_folder):
    return own.load(world_folder)


def test_every_file_is_used_or_named_with_a_reason(folder, world_folder, world):
    report = files.read_json(world_folder / "report.json")
    named = {entry["name"]: entry["reason"] for entry in report["left_out"]}
    assert set(named) == {*BROKEN, "disc01again"} - {"again"}
    assert all(reason and str(folder) not in reason for reason in named.values())
    assert named["disc01again"] == "is the same as disc01" and "film" in named["film.mp4"] and "11.0 s" in named["long.wav"]
    kinds = Counter(kind for record in world.records for kind, _, _ in record.parts)
    assert kinds == {"image": 40 + 8, "text": 80 + 7 + 3, "audio": 10, "video": 2}
    readable = (world_folder / "report.txt").read_text()
    assert all(f"{name}: {reason}" in readable for name, reason in named.items())
    assert not own.build(folder, world_folder), "nothing has changed"


def test_pictures_are_what_the_sampler_reads(folder, world):
    shapes = set()
    for record in world.records:
        if record.name.startswith("disc"):
            (number,) = [value for kind, _, value in record.parts if kind == "image"]
            pixels = world.part("image", number).pixels
            np.testing.assert_array_equal(pixels, image_io.read_image(folder / f"{record.name}.png"))
            assert (pixels[0, 0] == 255).all() and max(pixels.shape) == 32 and min(pixels.shape[:2]) % 4 == 0
            shapes.add(pixels.shape)
    assert len(shapes) > 4


def test_one_picture_saved_in_many_ways_stays_in_one_split(world):
    same = [record for record in world.records if record.name.startswith("same_")]
    numbers = {value for record in same for kind, _, value in record.parts if kind == "image"}
    shown = np.stack([world.part("image", n).pixels.astype(int) for n in numbers])
    assert len(same) == 8 and 4 <= len(numbers) <= 8 and np.sqrt(np.mean((shown - shown[0]) ** 2)) < 6
    assert len({record.split for record in same}) == 1
    assert {record.split for record in world.records} == {"train", "valid", "test"}


def test_what_looks_alike_is_never_held_out_from_itself():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    again = np.clip(pictures + rng.normal(0, 3, pictures.shape), 0, 255)
    store = own_check.Store()
    store.arrays["image"] = [(picture.astype(np.uint8), f"{place}") for place, picture in enumerate([*pictures, *again])]
    records = [own_check.Record(str(place), "", False, [("image", "", place)]) for place in range(120)]
    split, of_picture = own_check.split(records, store)
    split = [record.split for record in split]
    assert split[:60] == split[60:] and set(split) == {"train", "valid", "test"}
    assert [of_picture["image", place] for place in range(120)] == split


def test_what_is_shared_is_in_one_split_and_new_files_move_nothing(tmp_path):
    rng = np.random.default_rng(0)
    pictures = []
    for place in range(200):
        path = tmp_path / f"{place}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
        pictures.append(path.name)
    chain = [{"parts": [{"image": pictures[p]}, {"image": pictures[p + 1]}]} for p in range(10)]  # all linked
    lines = chain + [{"image": name, "text": f"picture {name}"} for name in pictures[20:]]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    own.build(tmp_path / "all.jsonl", tmp_path / "world")
    splits = [record.split for record in own.load(tmp_path / "world").records]
    assert len(set(splits[:10])) == 1
    counts = Counter(splits[10:])
    assert counts["train"] > 150 and 2 <= counts["valid"] <= 20 and 2 <= counts["test"] <= 20
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, [{"text": "something new"}, *lines])))
    own.build(tmp_path / "more.jsonl", tmp_path / "more")
    assert [record.split for record in own.load(tmp_path / "more").records][1:] == splits


def test_recordings_are_16_khz_mono_of_one_loudness(world):
    for record in world.records:
        for kind, _, value in record.parts:
            if kind == "audio":
                samples = world.part("audio", value).samples
                hertz = 300 + 20 * int(record.name[4:])
                spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
                assert abs(np.argmax(spectrum) * 16_000 / len(samples) - hertz) < 3 and abs(len(samples) - 9_600) <= 1
                assert abs(10 * np.log10(np.mean(samples**2)) - audio_io.LOUDNESS_DB) < 0.5


def test_loudness_does_not_depend_on_the_gain_or_on_pauses():
    spoken = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    paused = np.concatenate([np.zeros(16_000, np.float32), spoken, np.zeros(16_000, np.float32)])
    expected = audio_io.even_loudness(spoken)
    np.testing.assert_allclose(audio_io.even_loudness(0.02 * spoken), expected, rtol=1e-5)
    np.testing.assert_allclose(audio_io.even_loudness(paused)[16_000:32_000], expected, rtol=1e-2)
    click = np.zeros(16_000, np.float32)
    click[::4_000] = 0.9
    assert np.abs(audio_io.even_loudness(click)).max() <= 1
    with pytest.raises(errors.InputError, match="silent"):
        audio_io.even_loudness(1e-5 * spoken)


def test_every_pair_is_asked_about_in_both_directions(world):
    made = {name: list(own_documents.source(world, name, seed=0)) for name in own_documents.SOURCES}
    kinds = {name: {tuple(type(part).__name__ for part in document if not isinstance(part, stream.Role)) for document in docs}
             for name, docs in made.items()}
    assert kinds["draw"] == {("Text", "Image")} and kinds["listen"] == {("Audio", "Text", "Text")}
    assert kinds["name"] == {("Image", "Text", "Text"), ("Image", "Text", "Text", "Text", "Text")}
    assert kinds["speech_draw"] == {("Audio", "Text", "Text", "Image")} and kinds["translate"] == {("Text", "Text")}
    train = [record for record in world.records if record.split == "train" and record.name.startswith("disc")]
    for record in train:
        pixels = world.part("image", next(v for k, _, v in record.parts if k == "image")).pixels
        for lang, caption in [(lang, value) for kind, lang, value in record.parts if kind == "text"]:
            asked = [d for d in made["draw"] if np.array_equal(d[-1].pixels, pixels) and any(caption in t for t in said(d))]
            told = [d for d in made["name"] if any(isinstance(p, stream.Image) and np.array_equal(p.pixels, pixels) for p in d)
                    and caption in said(d)]
            assert len(asked) == len(told) == 1, (record.name, lang)
    held = {value for record in world.records if record.split != "train" for kind, _, value in record.parts if kind == "text"}
    assert not {t for docs in made.values() for d in docs for t in said(d)} & held
    assert sum(map(len, own_documents.valid(world, own_documents.SOURCES).values()))
    assert made["listen"][0][-1].text.startswith("a "), "a recording of no named language says the English text"


def test_documents_in_order_keep_it_and_one_bad_part_leaves_out_the_whole(folder, tmp_path):
    for name in ("disc02.png", "disc04.wav", "grows.gif", "bad.png"):
        shutil.copy(folder / name, tmp_path / name)
    kept = [{"role": "user"}, {"audio": "disc04.wav"}, {"text": "and"}, {"image": "disc02.png"}, {"video": "grows.gif"},
            {"role": "model"}, {"text": "नमस्ते"}, {"image": "disc02.png"}]
    lines = [json.dumps({"parts": kept}), "{", json.dumps({"parts": [{"text": "x"}, {"image": "bad.png"}]}), json.dumps([1]),
             json.dumps({"parts": [{"picture": "x"}]}), json.dumps({"text": "\ud800"}), json.dumps({"image": "no\0pe.png"}),
             json.dumps({"image": "n" * 3000}), json.dumps({"id": 7}), json.dumps({"parts": [{"role": "poet"}]}),
             json.dumps({"video": "film.mp4"}), json.dumps({"text": {"{x}": "a"}}), f'{{"text": {"9" * 5000}}}', "",
             json.dumps({"parts": [{"text": "hi"}], "image": "disc02.png"}),
             json.dumps({"text": {"en": "a disc", "pt-BR": "um disco"}, "image": ["disc02.png"], "label": 3})]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    own.build(tmp_path / "all.jsonl", tmp_path / "world")
    world = own.load(tmp_path / "world")
    report = files.read_json(tmp_path / "world" / "report.json")
    assert {entry["name"].split(" ")[0] for entry in report["left_out"]} == {f"all.jsonl:{n}" for n in (*range(2, 14), 15)} | {"all.jsonl:"}
    assert "all.jsonl: 'label'" in {entry["name"] for entry in report["left_out"]}, "what nobody reads is said"
    assert [record.name for record in world.records] == ["all.jsonl:1", "all.jsonl:16"]
    (document,) = own_documents.as_it_stands(world, world.records[0], np.random.default_rng(0))
    assert [(type(part).__name__, part.name if isinstance(part, stream.Role) else "") for part in document] == [
        ("Role", "user"), ("Audio", ""), ("Text", ""), ("Image", ""), ("Video", ""), ("Role", "model"), ("Text", ""), ("Image", "")]
    np.testing.assert_array_equal(document[4].seconds, [0.0, 0.5, 1.0, 1.5])
    np.testing.assert_array_equal(document[3].pixels, image_io.read_image(tmp_path / "disc02.png"))
    asked = [d[1].text for d in own_documents.translate(world, world.records[1], np.random.default_rng(0))]
    assert any("um disco" in question for question in asked) and any("a disc" in question for question in asked)


@pytest.mark.parametrize("how", ["folder", "lines"])
def test_films_and_clips_are_read_with_their_times(tmp_path, monkeypatch, how):
    av = pytest.importorskip("av")
    mine, greys = tmp_path / "mine", np.linspace(20, 220, 7).astype(np.uint8)
    mine.mkdir()
    pictures = [Image.new("RGB", (64, 32), (int(grey),) * 3) for grey in greys]
    pictures[0].save(mine / "loop.gif", save_all=True, append_images=pictures[1:], duration=250)
    for name, shown in (("walk.mp4", pictures), ("Still.MOV", pictures[:1])):
        with av.open(str(mine / name), "w") as film:
            video = film.add_stream("mpeg4", rate=2)
            video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
            for picture in shown:
                film.mux(video.encode(av.VideoFrame.from_image(picture)))
            film.mux(video.encode())
    upright = bytes.fromhex("00010000") + bytes(12) + bytes.fromhex("00010000") + bytes(12) + bytes.fromhex("40000000")
    on_its_side = bytes(4) + bytes.fromhex("00010000") + bytes(4) + bytes.fromhex("ffff0000") + bytes(16) + bytes.fromhex("40000000")
    made = (mine / "walk.mp4").read_bytes()
    at = made.index(upright, made.index(b"tkhd"))
    (tmp_path / "phone.mp4").write_bytes(made[:at] + on_its_side + made[at + 36 :])
    assert image_io.read_video(tmp_path / "phone.mp4")[0].shape == (4, 16, 8, 3) and image_io.read_video(mine / "walk.mp4")[0].shape == (4, 8, 16, 3)
    for name in ("walk.mp4", "Still.MOV", "loop.gif"):
        (mine / name).with_suffix(".txt").write_text(f"what {name} shows")
    source = mine
    if how == "lines":
        source = mine / "all.jsonl"
        lines = [{"parts": [{"video": name}, {"text": f"what {name} shows"}, {"video": "walk.mp4"}]}
                 for name in ("walk.mp4", "Still.MOV", "loop.gif")]
        source.write_text("\n".join(map(json.dumps, [*lines, {"text": "text alone"}])))
    own.build(source, tmp_path / "world")
    world = own.load(tmp_path / "world")
    assert not files.read_json(tmp_path / "world" / "report.json")["left_out"]
    clips = {}
    for record in world.records:
        said, *shown = (next((value for kind, _, value in record.parts if kind == wanted), None) for wanted in ("text", "video"))
        if shown != [None]:
            clips[said.split()[1]] = world.part("video", shown[0])
    for name, seconds in (("walk.mp4", [0, 1, 2, 3]), ("loop.gif", [0, 0.5, 1, 1.5]), ("Still.MOV", [0])):
        assert clips[name].seconds.tolist() == seconds and clips[name].frames.shape[1:] == (8, 16, 3)
        np.testing.assert_allclose(clips[name].frames.mean((1, 2, 3)), greys[: 2 * len(seconds) : 2], atol=4)  # a codec loses a little

    monkeypatch.setattr(image_io.importlib.util, "find_spec", lambda name: None)
    assert own.build(source, tmp_path / "world"), "what can be read has changed, so it is built again"
    left_out = {entry["name"]: entry["reason"] for entry in files.read_json(tmp_path / "world" / "report.json")["left_out"]}
    assert "pip install -e '.[video]'" in left_out["walk.mp4" if how == "folder" else "all.jsonl:1 (walk.mp4)"]


def test_no_bytes_can_stop_it(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    rng = np.random.default_rng(0)
    starts = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a\x08\x00\x08\x00", b"RIFF\x40\x00\x00\x00WAVEfmt ", b"RIFF\x40\x00\x00\x00WEBPVP8 ",
              b"BM", b"II*\x00\x08\x00\x00\x00", b"fLaC", b"OggS", b"FORM\x00\x00\x00\x40AIFF", b"\xff\xfe")
    for place, start in enumerate(starts):
        for suffix in own_files.KIND_OF:
            (mine / f"{place}x{suffix[1:]}{suffix}").write_bytes(start + rng.bytes(int(rng.integers(0, 200))))
    (mine / "good.txt").write_text("one text that can be read")
    for name in (b"\xff.png", b"\xfe.txt", b"\xfd.what"):
        (Path(os.fsdecode(bytes(mine) + b"/" + name))).write_bytes(b"not UTF-8 itself \xff")
    own.build(mine, tmp_path / "out")
    report = files.read_json(tmp_path / "out" / "report.json")
    used = {record.name for record in own.load(tmp_path / "out").records}
    assert "good" in used and len(used) + len(report["left_out"]) == len(starts) * len(own_files.KIND_OF) + 1 + 3


def test_nothing_of_the_users_is_overwritten(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other, tmp_path / "empty"):
        folder.mkdir()
    (mine / "a.txt").write_text("a text")
    (other / "thesis.txt").write_text("years of work")
    for out in (mine, mine / "out", tmp_path):
        with pytest.raises(errors.InputError, match="outside"):
            own.build(mine, out)
    with pytest.raises(errors.InputError, match="holds something else"):
        own.build(mine, other)
    with pytest.raises(errors.InputError, match="nothing that can be learned from"):
        own.build(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(errors.InputError, match="must be a folder"):
        own.build(tmp_path / "nowhere", tmp_path / "out")
    assert own.build(mine, tmp_path / "empty") and (mine / "a.txt").exists() and (other / "thesis.txt").exists()
    with pytest.raises(errors.InputError, match="no questions"):
        worlds.embedded(tmp_path / "empty")


def test_names_say_what_belongs_together(tmp_path):
    for name in ("cat.png", "cat.txt", "cat.es.txt", "cat.es.wav", "dog.jpg", "dog.jpg.txt", "IMG.de.png", "IMG.de.txt", "song.en.mp3",
                 "song.en.txt", "fox/1.png", "sub/cat.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "linked").symlink_to(tmp_path / "sub")
    assert [entry.name for entry in own_files.find(tmp_path)[1]] == ["linked"]
    found = {document.name: {(part.kind, part.lang) for part in document.parts} for document in own_files.find(tmp_path)[0]}
    assert found == {"cat": {("image", ""), ("text", ""), ("text", "es"), ("audio", "es")}, "dog": {("image", ""), ("text", "")},
                     "IMG.de": {("image", ""), ("text", "")}, "song": {("audio", "en"), ("text", "en")},
                     "fox/1": {("image", "")}, "sub/cat": {("image", "")}}
    labelled = {document.name: [part.value for part in document.parts if part.kind == "text"] for document in own_files.find(tmp_path, True)[0]}
    assert labelled["fox/1"] == ["fox"] and labelled["sub/cat"] == ["sub"] and len(labelled["cat"]) == 2


# What the later steps make of it

def test_the_tokenizers_read_the_training_split(world_folder, world):
    splits = {value: record.split for record in world.records for kind, _, value in record.parts if kind == "image"}
    data = image_tokenizer.read_world(world_folder)
    assert len(data.train) == sum(split == "train" for split in splits.values()) and data.train.shape[1:] == (32, 32, 3)
    speech = audio_tokenizer.read_world(world_folder)
    says = {value: record for record in world.records for kind, _, value in record.parts if kind == "audio"}
    for number, clip in enumerate(speech.clips):
        assert clip.split == says[number].split
        assert clip.text == "", "a long text cannot be spelt in 0.6 s, so it is not taught"


def test_a_transcript_is_taught_when_there_is_time_to_say_it(tmp_path):
    (tmp_path / "mine").mkdir()
    for name, said in (("short", "hello"), ("long", "much too long to be said in so short a time")):
        soundfile.write(tmp_path / "mine" / f"{name}.wav", tone(300 + len(said)), 44_100)
        (tmp_path / "mine" / f"{name}.txt").write_text(said)
    own.build(tmp_path / "mine", tmp_path / "out")
    assert sorted(clip.text for clip in audio_tokenizer.read_world(tmp_path / "out").clips) == ["", "hello"]


def test_text_alone_is_enough_for_every_step(tmp_path):
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps({"text": f"line {n} of a text"}) for n in range(50)))
    own.build(tmp_path / "all.jsonl", tmp_path / "world")
    images = image_tokenizer.TrainImageTokenizer(str(tmp_path / "world"), batch_pictures=2)
    (batch,) = images.batches(1, 0)(0)
    assert batch.shape == (2, 32, 32, 3) and images.batch_tokens() == 2 * 64
    sounds = audio_tokenizer.TrainAudioTokenizer(str(tmp_path / "world"))
    assert np.count_nonzero(sounds.batches(1, 0)(0).num_samples) == 1
    reader, world = worlds.load(tmp_path / "world")
    shares = mixture.shares(load_config("configs/own.py", []).task.stages)
    assert set(shares) == set(own_documents.SOURCES)
    sample = reader.text_sample(world, shares, seed=0)
    assert set(sample) == {record.parts[0][2] for record in world.records if record.split == "train"}
    tokenizer = text.train(sample, 2048, is_exact=False)
    assert 256 < tokenizer.num_pieces < 2048 and tokenizer.decode(tokenizer.encode("line 7 ж")) == "line 7 ж"


def test_any_text_makes_a_tokenizer():
    letters = [chr(0x4E00 + n) for n in range(5_000)]
    many = ["".join(letters[n % 5_000] for n in range(first, first + 50)) for first in range(0, 9_000, 45)] + ["很好"] * 500
    for sample in (many, ["a"]):
        tokenizer = text.train(sample, 1024, is_exact=False)
        assert 256 < tokenizer.num_pieces <= 1024
        assert all(tokenizer.decode(tokenizer.encode(line)) == line for line in (*sample[:20], "很好 a"))
    with pytest.raises(errors.InputError, match="cannot make 1024 pieces"):
        text.train(many, 1024)


def test_a_source_without_rows_leaves_its_part_to_the_others(tmp_path):
    stages = (mixture.Stage("all", 1.0, {"draw": 0.5, "listen": 0.4, "name": 0.1}),)
    dealt = Counter(mixture.Mixture(stages, {"draw": 3, "listen": 0, "name": 2}, 600, 0).row(n)[0] for n in range(600))
    assert set(dealt) == {"draw", "name"} and abs(dealt["draw"] - 500) <= 1
    with pytest.raises(errors.InputError, match="sources must be among"):
        mixture.Mixture(stages, {"draw": 3, "name": 2}, 600, 0)
    with pytest.raises(errors.InputError, match="that have rows"):
        mixture.Mixture(stages, {"draw": 0, "listen": 0, "name": 0}, 600, 0)
    rows.write(tmp_path, {"draw": [np.array([1, 50, 2], np.int32)], "listen": []}, 8, "vocabulary")
    stored = rows.load(tmp_path, "vocabulary")
    assert {name: len(r) for name, r in stored.sources.items()} == {"draw": 1, "listen": 0}


def test_a_small_source_is_not_read_without_end():
    weights = {"draw": 0.5, "documents": 0.3, "name": 0.2}
    stages = (mixture.Stage("all", 1.0, weights),)

    def dealt(sizes: dict[str, int]) -> Counter:
        return Counter(mixture.Mixture(stages, sizes, 2560, 0, most_passes=10).row(n)[0] for n in range(2560))

    assert dealt({"draw": 1000, "documents": 1000, "name": 1000}) == {"draw": 1280, "documents": 768, "name": 512}
    few = dealt({"draw": 1000, "documents": 1, "name": 1000})
    assert few["documents"] == 10 and abs(few["draw"] - 2550 * 5 / 7) < 10
    chain = dealt({"draw": 100, "documents": 1, "name": 1000})   # what documents leave is too much for draw
    assert chain["draw"] == 1000 and chain["documents"] == 10 and chain["name"] == 1550
    assert abs(dealt({"draw": 6, "documents": 2, "name": 2})["draw"] - 1536) < 10, "too little of all: in proportion"


@pytest.mark.parametrize("string", ["one two three four", "a\nb\n\nc\nd", "猫" * 9, "x", "\n\nend of it", "tail\n\n"])
def test_a_long_text_is_cut_and_nothing_is_lost(string):
    assert "".join(pack.cut(string, min(5, len(string)))) == string and all(pack.cut(string, min(5, len(string))))
    parts = [string]
    for _ in range(12):
        parts = [half for part in parts for half in (pack.cut(part, 2) if len(part.strip()) > 1 else [part])]
        assert "".join(parts) == string and all(parts)
    assert all(len(part.strip()) <= 1 for part in parts)


def test_a_text_is_cut_where_a_line_ends_near():
    lines = [f"line {n} of a text whose parts are whole lines\n" for n in range(100)]
    parts = pack.cut("".join(lines), 9)
    assert "".join(parts) == "".join(lines) and all(part.endswith("\n") for part in parts)
    assert max(map(len, parts)) < 1.2 * min(map(len, parts))
    far = pack.cut("word " * 100 + "\n" + "word " * 10, 5)
    assert len(far) == 5 and max(map(len, far)) < 1.2 * min(map(len, far)), "the only line's end is too far"


@pytest.mark.parametrize("letters", ["0123456789", "the quick brown fox, \n"])
def test_a_very_long_text_becomes_thousands_of_rows(letters):
    """By a tokenizer of letters, a thousand rows and more."""
    vocab, string = vocabulary.Vocab(256, 16, 16, "letters"), letters * (700_000 // len(letters))
    ids = lambda documents, known: [[stream.Pieces(np.frombuffer(document[0].text.encode(), np.uint8).astype(np.int32))] for document in documents]
    rendered, too_long = pack.render([[stream.Text(string)]], SimpleNamespace(vocab=vocab, encode_documents=ids), 512, {})
    assert not too_long and max(map(len, rendered)) <= 512 and len(rendered) < 1.15 * len(string) / 510
    read = np.concatenate([row[(row >= vocab.text_start) & (row < vocab.image_start)] for row in rendered]) - vocab.text_start
    assert bytes(read.astype(np.uint8)).decode() == string


def test_what_is_largest_is_trained_on():
    """A hundred lines that share one recording, and three others."""
    for trial in range(30):
        records = [own_check.Record(str(n), "", False, [("text", "", f"said {n}"), ("audio", "", 0)]) for n in range(100)]
        records += [own_check.Record(f"other {n}", "", False, [("text", "", f"text {n} of {trial}")]) for n in range(3)]
        store = own_check.Store()
        store.arrays["audio"] = [(np.zeros(1, np.int16), f"trial {trial}")]
        split = [record.split for record in own_check.split(records, store)[0]]
        assert set(split[:100]) == {"train"} and "valid" in split[100:]


def test_what_belongs_to_nothing_is_learned_alone(tmp_path):
    drawn("red").save(tmp_path / "same.png")
    drawn("blue").save(tmp_path / "same.webp")
    for name in ("said.wav", "said.flac"):
        soundfile.write(tmp_path / name, tone(400 if name[-1] == "v" else 700), 44_100)
    own.build(tmp_path, tmp_path.parent / f"{tmp_path.name}-world")
    world = own.load(tmp_path.parent / f"{tmp_path.name}-world")
    for record in world.records:
        made = {name: list(source(world, record, np.random.default_rng(0))) for name, source in own_documents.SOURCES.items()}
        assert [len(document) for document in made.pop("documents")] == [1, 1] and not any(made.values())


def test_split_needs_no_picture_and_a_small_collection_has_valid(tmp_path):
    records = [own_check.Record(str(n), "", False, [("text", "", f"text {n}")]) for n in range(3)]
    split = [record.split for record in own_check.split(records, own_check.Store())[0]]
    assert set(split) >= {"valid", "train"}
    assert own_check.split(records[:1], own_check.Store())[0][0].split == "train"


@pytest.mark.slow
def test_make_own_goes_from_the_folder_to_an_answer(folder, tmp_path):
    """The command of the README, in a folder beside the code, with a hundredth of the training."""
    repository = Path(__file__).parents[1]
    for name in ("Makefile", "pyproject.toml", "train.py", "sample.py", "configs", "data_prep", "gemini_mini"):
        (tmp_path / name).symlink_to(repository / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / ".venv/installed").touch()
    environment = os.environ | {"HOME": str(tmp_path), "XLA_FLAGS": ""}
    run = lambda *words: subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    made = run("make", "own", f"DATA={folder}", "BUDGET=0.01")
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    assert "bad.png" in made.stdout + (tmp_path / "data/own/world/report.txt").read_text()
    packed = files.read_json(tmp_path / "data/own/rows/train/rows.json")["sources"]
    assert {name for name, found in packed.items() if found["documents"]} >= {"draw", "name", "watch", "speech_draw"}, packed
    asked = run(".venv/bin/python", "sample.py", "runs/own", str(folder / "disc00.png"), str(folder / "disc00.wav"), str(folder / "grows.gif"),
                "What is it?", "--max-tokens", "20")
    assert asked.returncode == 0 and (tmp_path / "out/own-1/index.html").is_file(), asked.stderr
