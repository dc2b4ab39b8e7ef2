"""Which of a user's files belong together: a folder or JSONL to a list of documents, nothing opened yet.

In a folder, files of one name are one document, whatever their kinds; a language may stand before
the suffix of a text or a sound:

    cat.png  cat.txt  cat.wav             a picture, its caption, its recording
    cat.en.txt  cat.es.txt  cat.es.wav    captions in two languages, and the second one spoken
    cat.gif  cat.txt                      a clip; cat.mp4 and other films with the extra `video`
    cat/  cat.txt                         a folder of pictures beside a text of its name: a clip's frames

A line of JSONL is such a document, or one whose parts keep their order. Paths count from the file's folder:

    {"image": "cat.png", "text": {"en": "a cat", "es": "un gato"}}
    {"parts": [{"role": "user"}, {"image": "cat.png"}, {"text": "?"}, {"role": "model"}, {"text": "a cat"}]}

Next: own.py, which opens them.
"""

import collections
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gemini_mini import errors, stream
from gemini_mini.tokenizers import image_io

SUFFIXES = {
    "image": set(image_io.PICTURES),
    "audio": {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"},
    "video": {".gif", *image_io.FILMS},
    "text": {".txt"},
}
KIND_OF = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?")


class Part(NamedTuple):
    """A text (or the path of one), a path of another kind, or whose turn it is."""

    kind: str            # a key of SUFFIXES, or "role"
    lang: str            # "" where nobody says
    value: str | Path


class Found(NamedTuple):
    """Parts of one document. `in_order`: they are read as they stand, not asked about."""

    name: str
    parts: list[Part]
    in_order: bool = False


class LeftOut(NamedTuple):
    """What is not used, and why."""

    name: str
    reason: str


def shown(name: str | Path) -> str:
    """A name that can be written: Linux allows bytes that are no UTF-8."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def find(source: Path, label_by_folder: bool = False) -> tuple[list[Found], list[LeftOut]]:
    """All documents under a folder or in a JSONL file, in the order of their names or lines.

    With `label_by_folder`, what has no text is called as its folder is.
    Raises: InputError when there is no such folder or file.
    """
    if source.is_dir():
        return _in_folder(source, label_by_folder)
    if source.is_file() and source.suffix.lower() in (".jsonl", ".ndjson"):
        return _in_lines(source)
    raise errors.InputError(f"{source}: must be a folder of files or a .jsonl file; check the path")


def _in_folder(root: Path, label_by_folder: bool) -> tuple[list[Found], list[LeftOut]]:
    groups: dict[Path, list[Part]] = {}
    left_out = []
    for folder, names in _walk(root, lambda path, reason: left_out.append(LeftOut(shown(path.relative_to(root)), reason))):
        known = [folder / name for name in names if Path(name).suffix.lower() in KIND_OF]
        left_out += [LeftOut(shown((folder / name).relative_to(root)), unknown(Path(name).suffix.lower()))
                     for name in names if Path(name).suffix.lower() not in KIND_OF]
        if folder != root and _is_clip(folder, known):
            groups.setdefault(folder, []).append(Part("video", "", folder))
            continue
        seen = {path.stem for path in known if KIND_OF[path.suffix.lower()] in ("image", "video")}
        for path in known:
            stem, lang = path.stem, ""
            base, _, ending = stem.rpartition(".")
            if stem not in seen and base and f".{ending.lower()}" in KIND_OF:   # cat.png.txt
                stem = base
            elif stem not in seen and base and LANGUAGE.fullmatch(ending):
                stem, lang = base, ending
            groups.setdefault(folder / stem, []).append(Part(KIND_OF[path.suffix.lower()], lang, path))
    found = []
    for path, parts in sorted(groups.items()):
        if label_by_folder and path.parent != root and not any(part.kind == "text" for part in parts):
            parts = [*parts, Part("text", "", path.parent.name.replace("_", " "))]
        found.append(Found(shown(path.relative_to(root)), parts))
    return found, left_out


def _walk(root: Path, leave_out: Callable[[Path, str], None]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and the names of its files, hidden ones left alone; `leave_out` hears of folders that cannot be read, and why."""
    for folder, folders, names in os.walk(root, onerror=lambda error: leave_out(Path(error.filename), f"cannot be read: {error.strerror}")):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                leave_out(Path(folder, name), "is a link to a folder, and those are not followed; give the folder itself")
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _is_clip(folder: Path, known: list[Path]) -> bool:
    """Pictures alone, and beside the folder a text of its name."""
    caption = re.compile(rf"{re.escape(folder.name)}(\.{LANGUAGE.pattern})?\.txt")
    are_pictures = bool(known) and all(KIND_OF[path.suffix.lower()] == "image" for path in known)
    return are_pictures and any(map(caption.fullmatch, os.listdir(folder.parent)))


def unknown(suffix: str) -> str:
    return f"is of no kind that is read here ({' '.join(sorted(KIND_OF))})"


def _in_lines(path: Path) -> tuple[list[Found], list[LeftOut]]:
    found, left_out, unread = [], [], collections.Counter()
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            name = f"{path.name}:{number}"
            if line.strip():
                try:
                    value = json.loads(line)
                    found.append(_document(name, value, path.parent))
                    unread.update(value.keys() - {*SUFFIXES, "parts"})
                except (errors.InputError, RecursionError) as error:
                    left_out.append(LeftOut(name, str(error)))
                except ValueError as error:  # of bytes, of JSON, of a number too long
                    left_out.append(LeftOut(name, f"must be JSON in UTF-8, but {error}"))
    return found, left_out + [LeftOut(f"{path.name}: {key!r:.60}", f"is read by nobody, in {count:,} lines; parts are {', '.join(SUFFIXES)}")
                              for key, count in unread.items()]


def _document(name: str, line: object, folder: Path) -> Found:
    """Raises: InputError when the line is of another form."""
    if isinstance(line, dict) and "parts" in line and (beside := sorted(line.keys() & SUFFIXES.keys())):
        raise errors.InputError(f"must hold either parts or {', '.join(beside)}, and has both; put them among the parts")
    if isinstance(line, dict) and isinstance(line.get("parts"), list):
        parts = [part for entry in line["parts"] for part in _parts(entry, folder)]
        return Found(name, _some(parts), in_order=True)
    if isinstance(line, dict) and "parts" not in line:
        return Found(name, _some(_parts({kind: line[kind] for kind in SUFFIXES if kind in line}, folder)))
    raise errors.InputError('must be an object with a list "parts", or with some of "text", "image", "audio", "video"')


def _some(parts: list[Part]) -> list[Part]:
    if not parts:
        raise errors.InputError('holds no part; give "parts", or some of "text", "image", "audio", "video"')
    return parts


def _parts(entry: object, folder: Path) -> list[Part]:
    """{"image": "cat.png"}, {"text": {"en": ..., "es": ...}}, ... as parts."""
    if not isinstance(entry, dict) or not entry:
        raise errors.InputError(f"a part must be such as {{\"text\": \"a cat\"}}, got {entry!r:.60}")
    parts = []
    for kind, value in entry.items():
        if kind not in (*SUFFIXES, "role"):
            raise errors.InputError(f"a part must be one of text, image, audio, video, role, got {kind!r}")
        for lang, one in value.items() if isinstance(value, dict) else [("", value)]:
            if lang and not LANGUAGE.fullmatch(lang):
                raise errors.InputError(f"a language must be such as en or pt-BR, got {lang!r:.60}")
            for single in one if isinstance(one, list) else [one]:
                if not isinstance(single, str) or not single:
                    raise errors.InputError(f"{kind} must be a string that is not empty, got {single!r:.60}")
                if kind == "role" and single not in stream.ROLE_IDS:
                    raise errors.InputError(f"role must be one of {', '.join(stream.ROLE_IDS)}, got {single!r:.60}")
                is_path = kind in ("image", "audio", "video")
                parts.append(Part(kind, lang, folder / single if is_path else single))
    return parts
