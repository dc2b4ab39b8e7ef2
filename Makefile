# make demo   everything, from nothing to runs/demo/report.html (about 15 minutes on 2 cores)
# make test   the fast tests;  make test-slow  the others
# BUDGET=0.1  a tenth of the training: shows that all works, not how well

PYTHON ?= python3
BUDGET ?= 1
BIN := .venv/bin
DATA := data/demo
RUNS := runs

.PHONY: demo test test-slow clean

demo: .venv/installed
	$(BIN)/python -m data_prep.emoji_world --size demo --out $(DATA)/world
	$(BIN)/python -m data_prep.train_text_tokenizer $(DATA)/world --out $(DATA)/text
	$(BIN)/python train.py configs/image_tokenizer.py run.budget=$(BUDGET) task.world=$(DATA)/world run.folder=$(RUNS)/demo-image
	$(BIN)/python train.py configs/audio_tokenizer.py run.budget=$(BUDGET) task.world=$(DATA)/world run.folder=$(RUNS)/demo-audio
	$(BIN)/python -m data_prep.pack $(DATA)/world --text $(DATA)/text/text.model --image $(RUNS)/demo-image/image.safetensors \
		--audio $(RUNS)/demo-audio/audio.safetensors --out $(DATA)/rows
	$(BIN)/python train.py configs/demo.py run.budget=$(BUDGET) task.rows=$(DATA)/rows run.folder=$(RUNS)/demo
	$(BIN)/python -m gemini_mini.evals $(RUNS)/demo --world $(DATA)/world
	$(BIN)/python -m gemini_mini.report $(RUNS)/demo

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[world,eval,dev]'
	touch $@

clean:
	rm -rf data/demo runs/demo runs/demo-image runs/demo-audio
