"""Settings: plain frozen dataclasses; Python files for values; overrides by dotted name.

    python train.py configs/demo.py optim.lr=2e-3 task.model.depth=6

Next: ../configs/demo.py.
"""

import ast
import dataclasses
import difflib
import importlib.util
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemini_mini import errors
from gemini_mini.train import loop, optim


@dataclass(frozen=True)
class Experiment:
    """What is trained, how it is optimised, and where the run goes."""

    task: Any  # a loop.Task; which one is chosen by its type
    optim: optim.OptimConfig
    run: loop.RunConfig
    source: tuple[str, ...] = ()  # the file and the overrides it was loaded from, so that replay.py can load it again


def load(path: str, overrides: list[str]) -> Experiment:
    """The experiment of a config file, with overrides such as "optim.lr=1e-3".

    Raises: InputError when there is no such file of Python, it has no config() or an override does not fit.
    """
    if not Path(path).is_file() or Path(path).suffix != ".py":
        raise errors.InputError(f"{path}: no such config file (.py); configs/ holds the ones that come with the project")
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "config"):
        raise errors.InputError(f"{path}: must define config() -> Experiment")
    return dataclasses.replace(override(module.config(), overrides), source=(path, *overrides))


def again(settings: dict, where: Path) -> Experiment:
    """What a run in the folder `where` with these settings was loaded from, loaded again. Raises: InputError when it is not the same."""
    if not settings["source"]:
        raise errors.InputError(f"{where}: must be a run of train.py, of which a config says all; it was trained beside another run")
    path, *overrides = settings["source"]
    experiment = load(path, overrides)
    if to_json(experiment) != settings:
        raise errors.InputError(f"{where}: {path} has changed since, or this version has other settings; bring back what it was, or train it again")
    return experiment


def override(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment with some settings replaced, each "name=value". Raises: InputError when one does not fit."""
    for each in overrides:
        name, equals, value = each.partition("=")
        if not equals:
            raise errors.InputError(f"{each}: an override is written name=value, such as optim.lr=1e-3")
        experiment = _replace(experiment, name.split("."), value, name)
    return experiment


def to_json(value: Any) -> Any:
    """A dataclass tree as JSON values; tuples become lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    return [to_json(v) for v in value] if isinstance(value, (list, tuple)) else value


def from_json(kind: type, value: Mapping[str, Any], where: str):
    """A flat dataclass of numbers, strings and tuples back from JSON.

    Raises: InputError on a missing or unknown name.
    """
    known = {f.name for f in dataclasses.fields(kind)}
    if set(value) != known:
        raise errors.InputError(f"{where}: settings must be {sorted(known)}, these differ: "
                                f"{sorted(known ^ set(value))}; this file is of another version")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})


def _replace(node: Any, names: list[str], value: str, where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
    if names[0] not in fields:
        near = difflib.get_close_matches(names[0], fields) or sorted(fields)
        raise errors.InputError(f"{where}: unknown setting {names[0]!r}; nearest: {', '.join(near) or 'none'}")
    old = getattr(node, names[0])
    if names[1:]:
        new = _replace(old, names[1:], value, where)
    else:
        new = _parse(value, typing.get_type_hints(type(node))[names[0]], where)
    return dataclasses.replace(node, **{names[0]: new})


def _parse(text: str, kind: Any, where: str) -> Any:
    """`text` as a value of a field's type."""
    if kind is str:
        return text
    if typing.get_origin(kind) is typing.Literal:
        if text in typing.get_args(kind):
            return text
        raise errors.InputError(f"{where}: must be one of {', '.join(typing.get_args(kind))}, got {text!r}")
    try:
        value = ast.literal_eval(text)  # literals only: numbers, strings, tuples
    except (ValueError, SyntaxError):
        value = None
    base = typing.get_origin(kind) or kind
    if base is float and type(value) is int:
        value = float(value)
    if not isinstance(base, types.UnionType) and type(value) is base:
        return value
    raise errors.InputError(f"{where}: must be of type {getattr(kind, '__name__', kind)}, got {text!r}")
