"""Files that are never half-written, and folders that are built once.

Everything is written beside its place and renamed into it, so a reader sees the old content or
the new, also after a kill or a full disk. A built folder carries the hash of what it was made
from: the same inputs are not built twice.
"""

import hashlib
import inspect
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import safetensors
import safetensors.numpy

from gemini_mini import errors

CACHE = Path.home() / ".cache" / "gemini_mini" / platform.node()  # compiled programs: what it loses is only time


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises: InputError when `path` is a folder, OSError naming it when the disk is full or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise errors.InputError(f"{path}: is a folder, and a file is to be written there; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(f"{path}: could not be written ({error.strerror}); nothing was changed, "
                      "free some space or choose another place") from error


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: str | Path) -> object:
    """Read JSON. Raises: InputError when the file is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise errors.InputError(f"{path}: no such file; the step that writes it has not run") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise errors.InputError(f"{path}: must be JSON, but {error}; make it again") from None


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, str]) -> None:
    """Write named arrays and string metadata as safetensors, whole or not at all."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_bytes(path, safetensors.numpy.save(contiguous, dict(meta)))


def load_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what `save_arrays` wrote. Raises: InputError when the file is missing or damaged."""
    if not Path(path).is_file():
        raise errors.InputError(f"{path}: no such file; train or export it first")
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            meta = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, meta
    except safetensors.SafetensorError as error:
        raise errors.InputError(f"{path}: is damaged ({error}); restore it or train again") from None


def hash_bytes(*chunks: bytes) -> str:
    """Short stable hash of some bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """Short stable hash of a JSON value (keys sorted)."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def code_hash(*modules: ModuleType) -> str:
    """Hash of the modules' source, so that changed code rebuilds what it made."""
    return hash_bytes(*(inspect.getsource(module).encode() for module in modules))


def build(path: str | Path, inputs: dict, make: Callable[[Path], dict | None]) -> bool:
    """Make the folder `path` from `inputs` by `make(folder)`, unless it is already there.

    `inputs` is any JSON value that decides the content (config, versions, code hash, hashes of
    what is read). What `make` returns is kept beside them. Returns False when the folder was reused.

    Raises: InputError when something else is at `path`: it would be lost.
    """
    path = Path(path)
    key = hash_json(inputs)
    stamp = path / "built.json"
    if stamp.is_file() and read_json(stamp).get("key") == key:
        print(f"reused {path} (unchanged)")
        return False
    if path.exists() and not stamp.is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise errors.InputError(f"{path}: must be new, or a folder built before, but holds something else; choose another name")
    beside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    more = make(beside) or {}
    write_json(beside / "built.json", {"key": key, "inputs": inputs, **more})
    shutil.rmtree(path, ignore_errors=True)
    os.replace(beside, path)
    return True


def built_key(path: str | Path) -> str:
    """The key of a built folder. Raises: InputError when it was never finished."""
    return read_json(Path(path) / "built.json")["key"]
