"""The notebooks run from top to bottom, with so little training that only faults show."""

import os
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
