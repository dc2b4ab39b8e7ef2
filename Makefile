# make demo   everything, from nothing to runs/demo/report.html (about 17 minutes on 2 cores)
# make laptop  the same on the whole world, about two and a half hours
# make test   the fast tests;  make test-slow  the others
# BUDGET=0.1  a tenth of the training: shows that all works, not how well

PYTHON ?= python3
BUDGET ?= 1
BIN := .venv/bin

.PHONY: demo laptop test test-slow clean

demo: SIZE = demo
demo: PIECES = 2048
demo: ROW = 448
laptop: SIZE = laptop
laptop: PIECES = 4096
laptop: ROW = 512
demo laptop: .venv/installed
	$(BIN)/python -m data_prep.emoji_world --size $(SIZE) --out data/$(SIZE)/world
	$(BIN)/python -m data_prep.train_text_tokenizer data/$(SIZE)/world --config configs/$(SIZE).py \
		--pieces $(PIECES) --out data/$(SIZE)/text
	$(BIN)/python train.py configs/image_tokenizer.py task.world=data/$(SIZE)/world run.folder=runs/$(SIZE)-image run.budget=$(BUDGET)
	$(BIN)/python train.py configs/audio_tokenizer.py task.world=data/$(SIZE)/world run.folder=runs/$(SIZE)-audio run.budget=$(BUDGET)
	$(BIN)/python -m data_prep.pack data/$(SIZE)/world --row-tokens $(ROW) --text data/$(SIZE)/text/text.model \
		--image runs/$(SIZE)-image/image.safetensors --audio runs/$(SIZE)-audio/audio.safetensors --out data/$(SIZE)/rows
	$(BIN)/python train.py configs/$(SIZE).py run.budget=$(BUDGET)
	$(BIN)/python -m gemini_mini.evals runs/$(SIZE)
	$(BIN)/python -m gemini_mini.report runs/$(SIZE)
	$(BIN)/python -m gemini_mini.tokenizers report runs/$(SIZE)
	@echo "done: open runs/$(SIZE)/report.html and runs/$(SIZE)/tokenizers.html"

test: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[world,eval,dev]'
	touch $@

clean:
	rm -rf data/demo runs/demo runs/demo-image runs/demo-audio
