"""A thousand photographs as people have them, some files broken, through data_prep.own: python -m benchmarks.own_folder FOLDER

Crops of the photographs inside scikit-image's wheel in every size, format and transparency, captions in several scripts
and encodings, recordings at 44.1 kHz of uneven loudness, and beside some of them a file that cannot be used. What is left
out must be those files and no others, each for its reason; everything else must be in the world, and look as it did.
"""

import argparse
import functools
import io
import time
import zlib
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw
from skimage import data

from data_prep import own
from gemini_mini import errors, files

NUM_PHOTOGRAPHS, NUM_EACH = 1000, 3  # broken files of each kind
SMALLEST, LARGEST = 24, 1200  # longer side
RATE_HZ, QUIETEST_DB, LOUDEST_DB = 44_100, -45, -3
MOST_LEVELS = 12.0  # between a picture in the world and what was to be seen, RMS of 255: JPEG and palettes cost some
MOST_DB = 2.0  # from the loudest to the quietest sound in the world
PHOTOGRAPHS = (data.astronaut, data.camera, data.chelsea, data.coffee, data.coins, data.hubble_deep_field,
               data.immunohistochemistry, data.moon, data.retina, data.rocket)
CAPTIONS = {"en": "photograph {}", "ru": "снимок номер {}", "el": "φωτογραφία {}", "hi": "तस्वीर संख्या {}", "zh": "第{}张照片", "ja": "写真その{}",
            "ar": "الصورة رقم {}", "he": "תמונה מספר {}", "ko": "사진 {}번", "th": "ภาพที่ {}", "am": "ፎቶ ቁጥር {}", "vi": "bức ảnh số {}"}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
photograph = functools.cache(lambda place: PHOTOGRAPHS[place]())


def crop(rng: np.random.Generator) -> Image.Image:
    """A part of a photograph, turned or not, of any size and up to four times as long as wide."""
    whole = Image.fromarray(photograph(int(rng.integers(len(PHOTOGRAPHS))))).convert("RGB")
    longer = round(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
    sides = longer, max(8, round(longer * rng.uniform(0.25, 1)))
    width, height = sides if rng.random() < 0.5 else sides[::-1]
    zoom = rng.uniform(0.3, 1) * min(whole.width / width, whole.height / height)
    part = width * zoom, height * zoom
    left, top = rng.uniform(0, whole.width - part[0]), rng.uniform(0, whole.height - part[1])
    return whole.resize((width, height), box=(left, top, left + part[0], top + part[1]))


def cut_out(picture: Image.Image) -> Image.Image:
    """An oval of it, on nothing."""
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse((0, 0, *picture.size), fill=255)
    return Image.merge("RGBA", (*picture.split(), mask))


def palette_with_a_hole(picture: Image.Image, colours: Image.Image) -> Image.Image:
    """256 colours, the last of which is see-through and stands outside of the oval."""
    hole = np.asarray(cut_out(picture))[..., 3] == 0
    held = Image.fromarray(np.where(hole, 255, np.asarray(colours)).astype(np.uint8), "P")
    held.putpalette((colours.getpalette() + [0] * 255 * 3)[: 255 * 3] + [0, 255, 0])
    return held


def ways(picture: Image.Image) -> dict[str, tuple[str, str, Image.Image, dict, Image.Image]]:
    """How one picture can be saved: suffix, format, what is saved, options, and what is to be seen."""
    oval, grey, exif = cut_out(picture), picture.convert("L"), Image.Exif()
    on_white = Image.composite(picture, Image.new("RGB", picture.size, "white"), oval.getchannel("A"))
    exif[0x0112] = 6  # the camera was held on its side
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    few = picture.quantize(255, Image.Quantize.FASTOCTREE)
    few_on_nothing = palette_with_a_hole(picture, few)
    good = {"quality": 90, "subsampling": 0}
    return {
        "JPEG": ("jpg", "JPEG", picture, good, picture), "progressive": ("jpeg", "JPEG", picture, good | {"progressive": True}, picture),
        "grey": ("jpg", "JPEG", grey, good, grey), "CMYK": ("JPG", "JPEG", picture.convert("CMYK"), good, picture),
        "EXIF": ("jpg", "JPEG", picture.rotate(90, expand=True), good | {"exif": exif}, picture),
        "PNG": ("png", "PNG", picture, {}, picture), "alpha": ("png", "PNG", oval, {}, on_white),
        "grey alpha": ("png", "PNG", oval.convert("LA"), {}, on_white.convert("L")), "palette": ("PNG", "PNG", few, {}, picture),
        "palette alpha": ("png", "PNG", few_on_nothing, {"transparency": 255}, on_white),
        "16 bits": ("png", "PNG", deep, {}, grey), "16 bits TIFF": ("tiff", "TIFF", deep, {}, grey),
        "CMYK TIFF": ("tif", "TIFF", picture.convert("CMYK"), {}, picture), "WebP": ("webp", "WEBP", picture, {"quality": 90, "method": 0}, picture),
        "WebP alpha": ("webp", "WEBP", oval, {"lossless": True, "method": 0}, on_white), "GIF": ("gif", "GIF", few, {}, picture),
        "GIF alpha": ("gif", "GIF", few_on_nothing, {"transparency": 255}, on_white), "BMP": ("bmp", "BMP", picture, {}, picture),
        "JPEG named PNG": ("png", "JPEG", picture, good, picture),
    }


def recording(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Overtones of a note that rises and falls, one or two channels, and how loud it is."""
    seconds, level_db = rng.uniform(0.3, 9.5), rng.uniform(QUIETEST_DB, LOUDEST_DB)
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * rng.uniform(90, 300) * times
    note = sum(np.sin(n * phase) / n for n in range(1, 5)) * (1.2 + np.sin(9 * times))
    note *= 10 ** (level_db / 20) / np.abs(note).max()
    return (note if rng.random() < 0.5 else np.stack([note, 0.7 * note], axis=1)), level_db


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def sounded(samples: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format=kind, **options)
    return file.getvalue()


def broken(rng: np.random.Generator) -> dict[str, tuple[bytes, str]]:
    """Ending -> what the file holds, and a word of the reason that must be given."""
    picture, sound = crop(rng).resize((90, 70)), recording(rng)[0]
    wide = bytearray(encoded(picture, "PNG"))
    wide[16:24] = (60_000).to_bytes(4) * 2  # a header that asks for 10 GB
    wide[29:33] = zlib.crc32(wide[12:29]).to_bytes(4)
    half = lambda data: data[: len(data) // 2]
    return {
        "cut.png": (half(encoded(picture, "PNG")), "damaged"), "cut.jpg": (encoded(picture, "JPEG")[:-200], "damaged"),
        "cut.webp": (half(encoded(picture, "WEBP")), "picture"), "cut.bmp": (half(encoded(picture, "BMP")), "damaged"),
        "cut.gif": (half(encoded(picture.quantize(256), "GIF")), "damaged"), "empty.jpeg": (b"", "picture"),
        "page.jpg": (b"<!doctype html><p>404 not found", "picture"), "sound.png": (sounded(sound, "WAV"), "picture"),
        "wide.png": (bytes(wide), "megapixels"), "large.png": (encoded(Image.new("1", (9_000, 5_000)), "PNG"), "megapixels"),
        "empty.wav": (b"", "sound"), "picture.wav": (encoded(picture, "PNG"), "sound"), "cut.flac": (half(sounded(sound, "FLAC")), "damaged"),
        "cut.wav": (half(sounded(sound, "WAV")), "cut short"), "silent.flac": (sounded(np.zeros(RATE_HZ), "FLAC"), "silent"),
        "long.wav": (sounded(np.tile(recording(rng)[0].reshape(-1)[:RATE_HZ // 4], 50), "WAV"), "at most"),
        "infinite.wav": (sounded(np.full(RATE_HZ, np.inf), "WAV", subtype="FLOAT"), "finite"),
        "latin.fr.txt": ("café à la crème".encode("latin-1"), "UTF-8"), "cyrillic.bg.txt": ("снимка".encode("cp1251"), "UTF-8"),
        "blank.it.txt": (b" \r\n", "empty"), "binary.de.txt": (b"one\0two", "control"), "letter.docx": (b"PK\3\4", "no kind"),
    }


def make(folder: Path, seed: int) -> tuple[dict[str, tuple[str, Image.Image]], dict[str, str], list[float]]:
    """Write it all; returns each document's way and picture, each broken file's word, and the loudness of the recordings."""
    folder.mkdir(parents=True)
    rng, shown, wrong, levels = np.random.default_rng(seed), {}, {}, []
    languages = list(CAPTIONS)
    for n in range(NUM_PHOTOGRAPHS):
        name, options = f"photo{n:04d}", ways(crop(rng))
        way = list(options)[n % len(options)]
        suffix, kind, picture, how, to_see = options[way]
        (folder / f"{name}.{suffix}").write_bytes(encoded(picture, kind, **how))
        shown[name] = way, to_see
        for place in range(1 + n % 3):
            lang = languages[(n + 5 * place) % len(languages)]
            (folder / f"{name}.{lang}.txt").write_bytes(CAPTIONS[lang].format(n).encode(ENCODINGS[(n + place) % 3]))
        if n % 4 == 0:
            samples, level_db = recording(rng)
            levels.append(level_db)
            kind, subtype = (("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"))[n // 4 % 4]
            (folder / f"{name}.{kind.lower()}").write_bytes(sounded(samples, kind, subtype=subtype))
    for each in range(NUM_EACH):
        for place, (ending, (content, word)) in enumerate(broken(rng).items()):
            name = f"photo{4 * (40 * each + place) + 1:04d}.{ending}"   # beside what can be used
            (folder / name).write_bytes(content)
            wrong[name] = word
    return shown, wrong, levels


def check(out: Path, shown: dict[str, tuple[str, Image.Image]], wrong: dict[str, str], levels: list[float]) -> None:
    """Raises: SystemExit naming what is not as it must be."""
    faults, worst, after = [], {}, []
    left_out = {entry["name"]: entry["reason"] for entry in files.read_json(out / "report.json")["left_out"]}
    faults += [f"{name}: is broken, and was used" for name in wrong.keys() - left_out]
    faults += [f"{name}: can be used, and was left out: {left_out[name]}" for name in left_out.keys() - wrong]
    faults += [f"{name}: must say {wrong[name]!r}, says: {left_out[name]}" for name in left_out.keys() & wrong if wrong[name] not in left_out[name]]
    world = own.load(out)
    records = {record.name: record for record in world.records}
    for n, (name, (way, picture)) in enumerate(shown.items()):
        parts = records[name].parts if name in records else []
        texts = {value for kind, _, value in parts if kind == "text"}
        expected = {CAPTIONS[lang].format(n) for lang in (list(CAPTIONS)[(n + 5 * place) % len(CAPTIONS)] for place in range(1 + n % 3))}
        sounds = [world.part(kind, value).samples for kind, _, value in parts if kind == "audio"]
        pictures = [world.part(kind, value).pixels for kind, _, value in parts if kind == "image"]
        if texts != expected or len(pictures) != 1 or len(sounds) != (n % 4 == 0):
            faults.append(f"{name}: has texts {texts}, {len(pictures)} pictures, {len(sounds)} sounds")
            continue
        after += [10 * np.log10(np.mean(samples**2)) for samples in sounds]
        expected = picture.convert("RGB").resize(pictures[0].shape[1::-1], Image.Resampling.HAMMING)
        off = pictures[0] - np.asarray(expected, np.float32)
        worst[way] = max(worst.get(way, 0.0), float(np.sqrt(np.mean(off**2))))
    print("largest difference of a picture, levels of 255:", ", ".join(f"{way} {levels:.1f}" for way, levels in worst.items()))
    print(f"loudness: peaks of {min(levels):.0f} to {max(levels):.0f} dB; in the world {min(after):.1f} to {max(after):.1f} dB")
    faults += [f"pictures saved as {way}: {levels:.1f} levels from what was to be seen" for way, levels in worst.items() if levels > MOST_LEVELS]
    if max(after) - min(after) > MOST_DB:
        faults.append("sounds: are not of one loudness")
    if faults:
        raise SystemExit("\n".join([f"{len(faults)} faults", *faults[:40]]))
    print(f"left out: exactly the {len(wrong)} broken files, each for its reason")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder for the photographs, and for the world made of them")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.folder.exists():
        raise errors.InputError(f"{args.folder}: must be new; choose another")
    start = time.monotonic()
    shown, wrong, levels = make(args.folder / "mine", args.seed)
    size = sum(path.stat().st_size for path in (args.folder / "mine").iterdir())
    print(f"made {len(shown)} photographs, {len(levels)} recordings, {len(wrong)} broken files: {size / 1e6:.0f} MB, {time.monotonic() - start:.0f} s")
    start = time.monotonic()
    own.build(args.folder / "mine", args.folder / "world")
    print(f"data_prep.own: {time.monotonic() - start:.1f} s")
    check(args.folder / "world", shown, wrong, levels)


if __name__ == "__main__":
    errors.run(main)
