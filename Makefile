# make demo   everything, from nothing to runs/demo/report.html (about 19 minutes on 2 cores)
# make laptop  the same on the whole world, about two and a half hours
# make sample  asks the model that is released here: no training
# make own DATA=folder   the same on your own data (README, "Your own data")
# make release  trains the laptop's preset whole and writes that file and its card
# make clean  removes the demo's data and runs, or: make clean RUN=laptop
# make suites  every evaluation of the demo, after it; of another run: make suites RUN=laptop
# make test   the fast tests;  make test-slow  the others
# BUDGET=0.1  a tenth of the training: shows that all works, not how well
# PRODUCTS=bfloat16: the decoder, and the laptop's audio tokenizer, train in a third to half of the time where the CPU can (README, "What to expect")

PYTHON ?= python3
BUDGET ?= 1
PRODUCTS ?= xla
RUN ?= demo
BIN := .venv/bin

.PHONY: demo laptop sample release own suites test test-slow clean

demo: SIZE = demo
demo: PIECES = 2048
demo: ROW = 448
demo: IMAGE = configs/image_tokenizer.py
demo: AUDIO = configs/audio_tokenizer.py
laptop: SIZE = laptop
laptop: PIECES = 4096
laptop: ROW = 512
laptop: IMAGE = configs/image_tokenizer_laptop.py
# Clips at other speeds helped the demo's; the one laptop that read codes of them heard new voices worse (EXPERIMENTS.md).
laptop: AUDIO = configs/audio_tokenizer.py task.speeds=0 run.steps=6000 run.max_minutes=15 run.products=$(PRODUCTS)
laptop: VIEWS = --views listen
laptop: GUIDANCE = --guidance 1.5
demo laptop: .venv/installed
	$(BIN)/python -m data_prep.emoji_world --size $(SIZE) --out data/$(SIZE)/world
	$(BIN)/python -m data_prep.train_text_tokenizer data/$(SIZE)/world --config configs/$(SIZE).py \
		--pieces $(PIECES) --out data/$(SIZE)/text
	$(if $(filter laptop,$(SIZE)),$(BIN)/python -m data_prep.large_pictures data/$(SIZE)/world --out data/$(SIZE)/large)
	$(BIN)/python train.py $(IMAGE) task.world=data/$(SIZE)/world run.folder=runs/$(SIZE)-image run.budget=$(BUDGET) $(UNCUT)
	$(BIN)/python train.py $(AUDIO) task.world=data/$(SIZE)/world run.folder=runs/$(SIZE)-audio run.budget=$(BUDGET) $(UNCUT)
	$(BIN)/python -m data_prep.pack data/$(SIZE)/world --config configs/$(SIZE).py --row-tokens $(ROW) --text data/$(SIZE)/text/text.model \
		--image runs/$(SIZE)-image/image.safetensors --audio runs/$(SIZE)-audio/audio.safetensors $(VIEWS) --out data/$(SIZE)/rows
	$(BIN)/python train.py configs/$(SIZE).py run.budget=$(BUDGET) run.products=$(PRODUCTS) $(UNCUT) $(STEPS)
	$(BIN)/python -m gemini_mini.evals runs/$(SIZE) $(GUIDANCE)
	$(BIN)/python -m gemini_mini.report runs/$(SIZE)
	$(BIN)/python -m gemini_mini.tokenizers report runs/$(SIZE)
	@echo "done: open runs/$(SIZE)/report.html and runs/$(SIZE)/tokenizers.html"

sample: .venv/installed
	$(BIN)/python sample.py released/laptop.safetensors --guidance 1.5 "Draw: red heart"

# All steps, however long they take; without a limit of time they are the same everywhere.
release: UNCUT = run.max_minutes=0
release: STEPS = run.steps=8000
release: laptop
	$(BIN)/python -m gemini_mini.evals runs/laptop --guidance 1.5 --tasks retrieval,draw_chosen
	$(BIN)/python -m gemini_mini.evals.scan runs/laptop
	$(BIN)/python -m gemini_mini.release runs/laptop --out released/laptop.safetensors

# Where there are no pictures or no recordings, their tokenizer takes one step: it is there and writes nothing.
own: .venv/installed
	$(if $(DATA),,$(error say which data: make own DATA=folder, or a .jsonl file))
	$(BIN)/python -m data_prep.own "$(DATA)" --out data/own/world
	$(BIN)/python -m data_prep.train_text_tokenizer data/own/world --config configs/own.py --pieces 2048 --out data/own/text
	$(BIN)/python train.py configs/image_tokenizer.py task.world=data/own/world run.folder=runs/own-image run.budget=$(BUDGET) \
		$$(grep -q train data/own/world/pictures/items.json data/own/world/video/shots.json || echo run.steps=1 run.max_minutes=0)
	$(BIN)/python train.py configs/own_audio.py run.budget=$(BUDGET) $$(test -d data/own/world/speech/0000 || echo run.steps=1 run.max_minutes=0)
	$(BIN)/python -m data_prep.pack data/own/world --row-tokens 512 --text data/own/text/text.model \
		--image runs/own-image/image.safetensors --audio runs/own-audio/audio.safetensors --out data/own/rows
	$(BIN)/python train.py configs/own.py run.budget=$(BUDGET) run.products=$(PRODUCTS)
	@echo 'done: $(BIN)/python sample.py runs/own PICTURE "What is it?" (data/own/world/report.txt names what it has never seen)'

# The classifier judges drawings in the suite `generation`; alone trains a second run, of text and nothing else.
suites: .venv/installed
	$(BIN)/python train.py configs/picture_classifier.py task.world=data/$(RUN)/world run.folder=runs/$(RUN)-classifier run.budget=$(BUDGET)
	$(BIN)/python -m gemini_mini.evals runs/$(RUN) --suite all $(if $(filter laptop,$(RUN)),--guidance 1.5)
	$(BIN)/python -m gemini_mini.evals.scan runs/$(RUN)
	$(BIN)/python -m gemini_mini.alone runs/$(RUN)

# Most of the time of the fast tests is compiling: without XLA's optimizations it is less than half (tests/conftest.py). The slow ones have them.
test: .venv/installed
	$(BIN)/ruff check -q .
	XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[world,eval,dev]'
	touch $@

clean:
	$(if $(strip $(RUN)),,$(error RUN= would remove all data and runs: say which, make clean RUN=laptop))
	rm -rf data/$(RUN) runs/$(RUN) runs/$(RUN)-image runs/$(RUN)-audio
