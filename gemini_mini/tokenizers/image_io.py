"""Pictures and clips on disk <-> uint8 RGB arrays whose sides are multiples of a patch.

Whatever the file holds (any format Pillow reads, palette, CMYK, 16 bits, alpha, a camera's
rotation flag) becomes what a person sees on a white page. Files are the user's: their size is
checked from the header before anything is decoded, and a bad one is an `InputError`.
Video is a few equally spaced frames (Gemini report, arXiv 2312.11805, section 5.2.2).
Next: image.py, which turns the pixels into codes.
"""

import contextlib
import importlib.util
import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps

from gemini_mini import errors, files

MAX_PIXELS = 40_000_000  # 40 megapixels: 160 MB once decoded
PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))  # by their names
FILMS = frozenset((".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"))  # read by PyAV, the extra `video`
MAX_FRAMES = 18_000  # ten minutes at 30 a second
MAX_CLIP_PIXELS = 1_000_000_000  # of all frames of an animation, each of which is decoded: a few seconds; a small file may say it has more
FOLDER_FRAME_S = 1.0  # pictures in a folder carry no times: one a second
UNTIMED_FRAME_S = 0.1  # what browsers show for a frame that claims to last 0 s

# What Pillow's plug-ins have been seen to raise on damaged bytes.
PILLOW_ERRORS = (ArithmeticError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TypeError,
                 ValueError, struct.error, zlib.error)


def read_image(path: str | Path, multiple: int = 4, size: int = 32) -> UInt8[np.ndarray, "height width 3"]:
    """Read a picture; its longer side becomes `size`, both sides multiples of `multiple`.

    The aspect is kept as near as that allows, with at least one patch on the shorter side. Of an
    animation this is the first frame.

    Raises: InputError if the file is missing, damaged, no picture, empty or over MAX_PIXELS.
    """
    image = _open(path)
    return _pixels(path, image, _target(image, multiple, size))


def fit(image: Image.Image, multiple: int = 4, size: int = 32) -> UInt8[np.ndarray, "height width 3"]:
    """A picture in memory as `read_image` gives one from a file."""
    return _pixels("picture", image, _target(image, multiple, size))


def read_video(
    path: str | Path, num_frames: int = 4, size: int = 16, multiple: int = 4, check: Callable[[], None] = lambda: None
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, "frames"]]:
    """Read equally spaced frames, first and last included, and the second each one starts at.

    `check` is called at every frame, which may be many, and ends the reading by raising.

    `path` is an animation (GIF, WebP, PNG), a film (FILMS) or a folder of pictures in the order of their names,
    taken as one a second. A clip shorter than `num_frames` gives all its frames. All frames get
    the shape `read_image` would give the first.

    Raises: InputError as `read_image`, when a folder has no pictures or of unequal sizes, and when a film is longer
    than MAX_FRAMES or nothing is installed that reads it.
    """
    path = Path(path)
    if path.is_dir():
        frames, starts_s = _folder_frames(path, num_frames, size, multiple)
    elif path.suffix.lower() in FILMS:
        frames, starts_s = _film_frames(path, num_frames, size, multiple, check)
    else:
        frames, starts_s = _animation_frames(path, num_frames, size, multiple, check)
    return np.stack(frames), np.asarray(starts_s, np.float32)


def write_png(path: str | Path, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write a picture as PNG, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    files.write_bytes(path, buffer.getvalue())


def reads_films() -> bool:
    """Whether what reads films is installed."""
    return importlib.util.find_spec("av") is not None


def check_films(path: str | Path) -> None:
    """Raise InputError when nothing is installed that reads the film `path`."""
    if not reads_films():
        raise errors.InputError(f"{path}: films need PyAV, which is not installed; install the extra `video` "
                                "(pip install -e '.[video]'), or convert it to .gif")


def equally_spaced(num_frames: int, total: int) -> list[int]:
    """Which of `total` frames to take: i (total - 1) / (num_frames - 1), halves rounded up.

    All of them when there are no more than `num_frames`; the middle one when asked for one.
    """
    if num_frames < 1 or total < 1:
        raise ValueError(f"equally_spaced: needs at least 1 frame, got {num_frames} of {total}")
    if total <= num_frames:
        return list(range(total))
    if num_frames == 1:
        return [(total - 1) // 2]
    gaps = num_frames - 1
    return [(2 * i * (total - 1) + gaps) // (2 * gaps) for i in range(num_frames)]


@contextlib.contextmanager
def _decoding(path: str | Path) -> Iterator[None]:
    """Say of which file, when Pillow stumbles over damaged bytes."""
    try:
        yield
    except PILLOW_ERRORS as error:
        raise errors.InputError(f"{path}: is damaged or cut short ({error}); download or export it again") from None


def _open(path: str | Path) -> Image.Image:
    """Open the file and check its header; no pixel is decoded yet."""
    if not Path(path).is_file():
        raise errors.InputError(f"{path}: no such picture file; check the path")
    try:
        with warnings.catch_warnings():  # Pillow's own limit is higher and only warns
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise errors.InputError(f"{path}: {error}; at most {MAX_PIXELS / 1e6:.0f} megapixels are read, "
                                "scale the picture down first") from None
    except PILLOW_ERRORS as error:
        raise errors.InputError(f"{path}: must be a picture (PNG, JPEG, WebP, GIF, ...), but cannot be read as "
                                f"one ({error}); convert it or choose another file") from None
    width, height = image.size
    if width == 0 or height == 0:
        raise errors.InputError(f"{path}: has no pixels ({width}×{height}); choose another file")
    if width * height > MAX_PIXELS:
        raise errors.InputError(
            f"{path}: has {width}×{height} pixels = {width * height / 1e6:.0f} megapixels; at most "
            f"{MAX_PIXELS / 1e6:.0f} megapixels are read, scale the picture down first")
    return image


def _target(image: Image.Image, multiple: int, size: int) -> tuple[int, int]:
    """(width, height) to resize to."""
    if size < multiple or size % multiple:
        raise errors.InputError(f"size of a picture: must be a multiple of the patch of {multiple} pixels, "
                                f"got {size}; choose for example {max(1, round(size / multiple)) * multiple}")
    width, height = image.size
    if _orientation(image) >= 5 and image.format != "TIFF":  # on its side; of a TIFF Pillow says the size as it is seen
        width, height = height, width
    patches = [max(1, round(size * side / max(width, height) / multiple)) for side in (width, height)]
    return patches[0] * multiple, patches[1] * multiple


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1 (upright) to 8."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except PILLOW_ERRORS:  # a damaged EXIF block is no reason to refuse the pixels
        return 1


def _pixels(path: str | Path, image: Image.Image, target: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """Decode the current frame as RGB on white at the `target` size."""
    with _decoding(path):
        image.load()
        if _orientation(image) > 1:
            image = ImageOps.exif_transpose(image)
        image = _on_white(image)
    if image.size != target:
        # Hamming is as sharp as bicubic when shrinking and does not ring around line art.
        image = image.resize(target, Image.Resampling.HAMMING)
    return np.asarray(image, np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB as seen on a white page."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))  # 65535 = 257 * 255
    elif image.mode in ("I", "F"):  # no agreed range: stretch from darkest to brightest
        values = np.nan_to_num(np.asarray(image, np.float64))
        low, high = values.min(), values.max()
        image = Image.fromarray(np.round((values - low) / max(high - low, 1e-9) * 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _animation_frames(
    path: Path, num_frames: int, size: int, multiple: int, check: Callable[[], None]
) -> tuple[list[np.ndarray], list[float]]:
    image = _open(path)
    target = _target(image, multiple, size)
    with _decoding(path):
        total = getattr(image, "n_frames", 1)
    if total * image.width * image.height > MAX_CLIP_PIXELS:
        raise errors.InputError(f"{path}: has {total} frames of {image.width}×{image.height} pixels; at most {MAX_CLIP_PIXELS / 1e6:,.0f} "
                                "megapixels are read in all, so cut it or scale it down first")
    wanted = set(equally_spaced(num_frames, total))
    frames, starts_s, now_s = [], [], 0.0
    for index in range(total):  # in order: a frame is drawn over those before it
        check()
        with _decoding(path):
            image.seek(index)
            image.load()  # WebP knows how long a frame lasts only now
        if index in wanted:
            frames.append(_pixels(path, image, target))
            starts_s.append(now_s)
        now_s += image.info.get("duration", 0) / 1000 or UNTIMED_FRAME_S
    return frames, starts_s


def _film_frames(
    path: Path, num_frames: int, size: int, multiple: int, check: Callable[[], None]
) -> tuple[list[np.ndarray], list[float]]:
    """Read twice, once to count: headers do not say how many frames there are, and they may not fit in memory."""
    check_films(path)
    import av  # FFmpeg's libraries: 60 MB that most never need

    if not path.is_file():
        raise errors.InputError(f"{path}: no such film; check the path")
    try:
        with av.open(str(path)) as film:
            codec = film.streams.video[0].codec_context
            if codec.width * codec.height > MAX_PIXELS:
                raise errors.InputError(f"{path}: has {codec.width}×{codec.height} pixels a frame; at most "
                                        f"{MAX_PIXELS / 1e6:.0f} megapixels are read, scale the film down first")
            total = sum(check() is None for _ in itertools.islice(film.decode(video=0), MAX_FRAMES + 1))
        if not 1 <= total <= MAX_FRAMES:
            raise errors.InputError(f"{path}: must have from 1 to {MAX_FRAMES} frames; cut it, or choose another")
        wanted = set(equally_spaced(num_frames, total))
        with av.open(str(path)) as film:
            taken = [(frame.to_image().rotate(frame.rotation, expand=True), frame.time) for i, frame in enumerate(film.decode(video=0)) if check() is None and i in wanted]
    except (av.FFmpegError, IndexError) as error:
        raise errors.InputError(f"{path}: cannot be read as a film ({error}); download or export it again") from None
    target = _target(taken[0][0], multiple, size)
    begin = taken[0][1] or 0.0
    return ([_pixels(path, image, target) for image, _ in taken],
            [(time or 0.0) - begin for _, time in taken])


def _folder_frames(
    path: Path, num_frames: int, size: int, multiple: int
) -> tuple[list[np.ndarray], list[float]]:
    names = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in PICTURES and not entry.name.startswith("."))
    if not names:
        raise errors.InputError(f"{path}: must hold the frames of a clip as pictures ({' '.join(sorted(PICTURES))}), but holds none")
    wanted = equally_spaced(num_frames, len(names))
    images = [_open(names[index]) for index in wanted]
    target = _target(images[0], multiple, size)
    for index, image in zip(wanted, images, strict=True):
        if image.size != images[0].size:
            raise errors.InputError(
                f"{names[index]}: is {image.size[0]}×{image.size[1]}, but the first frame is "
                f"{images[0].size[0]}×{images[0].size[1]}; give all frames of a clip one size")
    frames = [_pixels(names[index], image, target) for index, image in zip(wanted, images, strict=True)]
    return frames, [index * FOLDER_FRAME_S for index in wanted]
