"""Every benchmark can be started: its imports exist, and it says what it is to be given."""

import contextlib
import runpy
import sys
from pathlib import Path

import pytest

from gemini_mini import memory

ROOT = Path(__file__).parent.parent
EXTRAS = {"constriction", "matplotlib", "skimage", "sklearn", "tiktoken"}  # modules of pyproject.toml's extras; torch is not even tried
FILES = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_benchmark_starts(path, monkeypatch, capsys):
    source = path.read_text()
    compile(source, path, "exec")
    if "\nimport torch" in source:
        return
    monkeypatch.syspath_prepend(str(ROOT))  # as python -m
    monkeypatch.setattr(memory, "keep", lambda: None)  # would start all tests again
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    is_command = '__name__ == "__main__"' in source
    try:
        with pytest.raises(SystemExit) if is_command else contextlib.nullcontext() as end:
            runpy.run_path(str(path), run_name="__main__" if is_command else path.stem)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"needs {error.name}")
    assert not is_command or end.value.code == 0 and "usage:" in capsys.readouterr().out
