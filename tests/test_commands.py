"""Every command says in one sentence which path is missing, or is not what it must be, and ends as after any bad input."""

import importlib
import sys
from pathlib import Path

import pytest

from gemini_mini import errors, files, run

CONFIGS = Path(__file__).parents[1] / "configs"
READ = (  # BAD is missing, or a file of no kind that is read here; what stands behind other names in capitals is there where it is read
    "sample BAD hello", "sample RUN BAD.png", "sample RUN --prompts BAD",
    "train BAD", "train CONFIGS/demo.py task.rows=BAD",
    *(f"train CONFIGS/{name}.py task.world=BAD" for name in ("image_tokenizer", "own_audio", "picture_classifier")),
    "train CONFIGS/image_tokenizer_laptop.py task.world=WORLD task.large=BAD",
    "data_prep.own BAD --out NEW", "data_prep.recorded BAD --out NEW", "data_prep.large_pictures BAD --out NEW",
    "data_prep.train_text_tokenizer BAD --config CONFIGS/demo.py --out NEW", "data_prep.train_text_tokenizer WORLD --config BAD --out NEW",
    "data_prep.pack BAD --text TOKENIZERS/text.model --image TOKENIZERS/image.safetensors --audio TOKENIZERS/audio.safetensors --out NEW",
    "data_prep.pack WORLD --text TOKENIZERS/text.model --image TOKENIZERS/image.safetensors --audio BAD --out NEW",
    "gemini_mini.evals.__main__ BAD", "gemini_mini.evals.__main__ RUN --world BAD", "gemini_mini.evals.__main__ RUN --classifier BAD",
    "gemini_mini.evals.scan BAD", "gemini_mini.evals.harness RUN --tasks x --include BAD", "gemini_mini.report BAD",
    "gemini_mini.release BAD --out NEW.safetensors", "gemini_mini.replay BAD --step 3", "gemini_mini.alone BAD",
    "gemini_mini.ablate BAD", "gemini_mini.supervise BAD", "gemini_mini.plan.__main__ BAD --plan v5e:4x4",
    "gemini_mini.serve.__main__ BAD --port 0", "gemini_mini.tokenizers.__main__ report BAD",
    "gemini_mini.tokenizers.audio listen BAD NEW.wav --run RUN", "gemini_mini.tokenizers.audio listen BAD.wav NEW.wav --run BAD",
)
WRITTEN = (  # BAD is a file where a folder is to be written
    "sample RUN hello --out BAD", "train CONFIGS/image_tokenizer.py task.world=WORLD run.folder=BAD",
    "data_prep.emoji_world --out BAD", "data_prep.own WORLD --out BAD", "data_prep.own WORLD --out BAD/new",
)


@pytest.mark.parametrize("command, is_there", [*((command, False) for command in READ), *((command, True) for command in (*READ, *WRITTEN))])
def test_a_mistyped_path_is_named(command, is_there, run_folder, tmp_path, monkeypatch, capsys):
    bad = tmp_path / "mistyped"
    if is_there:
        bad.write_text("mine")
    files.write_json(tmp_path / "world" / "built.json", {"key": "", "content": ""})
    for name, path in {"CONFIGS": CONFIGS, "TOKENIZERS": run_folder / "tokenizers", "RUN": run_folder, "WORLD": tmp_path / "world",
                       "NEW": tmp_path / "new", "BAD": bad}.items():
        command = command.replace(name, str(path))
    module, *words = command.split(" ")
    if "serve" in module:
        pytest.importorskip("uvicorn")
    monkeypatch.setattr(run, "keep_compiled", lambda: None)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit) as end:
        errors.run(importlib.import_module(module).main)
    told = capsys.readouterr().err
    assert end.value.code == errors.BAD_INPUT and told.startswith("error: ") and told.count("\n") == 1 and str(bad) in told
    assert not is_there or bad.read_text() == "mine"
