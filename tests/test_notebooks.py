"""The notebooks run from top to bottom, with so little training that only faults show."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))

SHOWN = {  # what a reader sees, and how often at least
    "1_train_and_talk": {"data:image/png": 1, "data:audio/wav": 1, "turn model": 5},
    "2_inside_the_stream": {"data:image/png": 8, "who sees whom": 1, "EOI": 1, "GFLOP": 1, "a second of sound": 1},
    "3_your_own_data": {"pictures: 180 (": 1, "left out: 0": 1, "turn model": 2},
}


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
    page = "".join(output.get("text", "") + output.get("data", {}).get("text/html", "") for output in shown)
    counts = {sign: page.count(sign) for sign in SHOWN[path.stem]}
    assert all(counts[sign] >= least for sign, least in SHOWN[path.stem].items()), counts
