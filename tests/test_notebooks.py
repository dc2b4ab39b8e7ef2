"""The notebooks run from top to bottom, with so little training that only faults show."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def read(path):
    return pytest.importorskip("nbformat").read(path, as_version=4)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The repository by links, so that data and runs land elsewhere; the notebooks share them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("gemini_mini", "data_prep", "configs", "notebooks", "train.py", "sample.py"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    for cell in read(path).cells:
        assert cell.cell_type != "code" or cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_the_clone_below_where_it_starts(path, tmp_path, monkeypatch):
    """As in Colab: there a clone's own folder already answers to the name of the package."""
    clone, installed = tmp_path / "gemini_mini", []
    (clone / "gemini_mini").mkdir(parents=True)
    (clone / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(subprocess, "run", lambda command, check: installed.append(command))
    for name in ("BUDGET", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    exec(next(cell.source for cell in read(path).cells if cell.cell_type == "code"), {})
    assert [command[-1] for command in installed] == [f"{clone}[world]"] and sys.path[0] == str(clone) == os.getcwd()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, checkout, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[dev]'")
    monkeypatch.setenv("BUDGET", "0.003")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a reader has
    notebook = read(path)
    nbclient.NotebookClient(notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(checkout)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("data:image/png" in output.get("data", {}).get("text/html", "") for output in shown) or "own" in path.stem
