"""What makes a run folder the folder of this run: the same settings and the same data."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from gemini_mini import errors, files

# Settings of the run that do not decide what is trained: they may change from one start to the next.
FREE = ("mesh", "eval_every", "save_every", "keep", "keep_every", "keep_best", "flip")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While this process trains in the folder. Raises: InputError when another one does."""
    if folder.is_file():
        raise errors.InputError(f"{folder}: is a file; set run.folder=... to a folder, new or of this run")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.InputError(f"{folder}: another process trains in it; wait for it, or set run.folder=... to start another") from None
        yield


def started(folder: Path, settings: dict, inputs: dict) -> dict | None:
    """What run.json says, or None before the first start. Raises: InputError when it is of another run, or `folder` a file."""
    if folder.is_file():
        raise errors.InputError(f"{folder}: is a file; set run.folder=... to a folder, new or of this run")
    if not (folder / "run.json").is_file():
        return None
    found = files.read_json(folder / "run.json")
    for what, then, now in (("settings", _deciding(found["settings"]), _deciding(settings)),
                            ("inputs", found["inputs"], inputs)):
        if then != now:
            raise errors.InputError(f"{folder}: holds a run with other {what} ({_difference(then, now)}); "
                                    "set run.folder=... to start another, or remove it to start again")
    return found


def _deciding(settings: dict) -> dict:
    """The settings that decide what is trained."""
    return {name: {k: v for k, v in value.items() if k not in FREE} if name == "run" else value
            for name, value in settings.items() if name != "source"}


def _difference(old, new, where: str = "") -> str:
    """The first place where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    return f"{where}: {old} there, {new} now"
