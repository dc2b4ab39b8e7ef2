"""The shape of the code: who imports whom, what is documented, what training never loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"errors", "memory"}, {"files", "progress"}, {"vocab", "parallel"}, {"matmul"}, {"quant"}, {"stream", "nn"}, {"tokenizers"}, {"data", "model"},
    {"train", "decode"}, {"evals"}, {"tasks"}, {"config"}, {"run", "replay", "supervise", "alone"}, {"api"}, {"talk", "serve"}, {"report"},
    {"cards", "plan", "release", "ablate"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted((ROOT / "gemini_mini").rglob("*.py"))


def unit(path: Path) -> str:
    parts = path.relative_to(ROOT / "gemini_mini").with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    """The units of gemini_mini that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gemini_mini":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("gemini_mini.")}
    return found


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=lambda p: p.stem)
def test_imports_go_only_to_the_left(path):
    if path.name == "__main__.py":
        return  # a command stands above all that it starts
    here = unit(path)
    for there in imported(path) - {here}:
        # An evaluation loads a finished run; everything else keeps to the order.
        if (here, there) == ("evals", "run"):
            continue
        assert LEVEL[there] < LEVEL[here], f"{path.name} imports {there}, which is not to its left"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: "/".join(p.parts[-2:]))
def test_every_module_says_what_it_does(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_public_functions_and_classes_are_documented():
    bare = []
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                small = isinstance(node, ast.ClassDef) and len(node.body) <= 2  # a record of annotated fields
                if not ast.get_docstring(node) and not small and node.name not in ("main", "Block"):
                    bare.append(f"{path.stem}.{node.name}")
    assert not bare


def test_nothing_runs_what_a_user_hands_in():
    for path in [*MODULES, *ROOT.glob("*.py"), *(ROOT / "data_prep").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {a.name for a in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "cloudpickle"}, path


def test_the_sampling_path_stays_light_and_tensorflow_stays_out():
    script = "import sys, sample; print([m for m in ('tensorflow', 'orbax', 'tensorflow_datasets', 'tensorboardX', 'grain', 'scipy.signal') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    script = "import sys, gemini_mini; assert 'jax' not in sys.modules and callable(gemini_mini.load)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    script = "import sys, train; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
