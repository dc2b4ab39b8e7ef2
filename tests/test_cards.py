"""The cards' laws: figures are what they say, a fault shows, and the page needs nothing but itself."""

import html.parser
import re
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from data_prep import documents, emoji_world, splits
from data_prep import text as text_lib
from gemini_mini import errors, files, run, stream
from gemini_mini.cards import audio as audio_card
from gemini_mini.cards import card, sheet
from gemini_mini.cards import text as text_card
from gemini_mini.evals import pictures, text_pieces
from gemini_mini.tokenizers import audio, image, logmel, text

SHARES = {"draw": 0.5, "translate": 0.3, "prose": 0.1, "code": 0.1}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> emoji_world.World:
    folder = tmp_path_factory.mktemp("cards") / "world"
    emoji_world.build(emoji_world.TINY, folder)
    return emoji_world.load(folder)


@pytest.fixture(scope="module")
def tokenizer(world) -> text.TextTokenizer:
    return text.train(documents.text_sample(world, SHARES, seed=0), 1200)


def test_ssim_is_its_definition_and_sees_what_is_lost():
    rng = np.random.default_rng(0)
    a = rng.integers(256, size=(2, 13, 12, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 40, a.shape), 0, 255).astype(np.uint8)
    weight = np.array([[np.exp(-(y * y + x * x) / 4.5) for x in range(-5, 6)] for y in range(-5, 6)])
    weight /= weight.sum()
    found = []
    for y in range(3):
        for x in range(2):
            for colour in range(3):
                p, q = (v[0, y : y + 11, x : x + 11, colour].astype(float) for v in (a, b))
                mp, mq = (weight * p).sum(), (weight * q).sum()
                vp, vq, c = ((weight * d).sum() for d in ((p - mp) ** 2, (q - mq) ** 2, (p - mp) * (q - mq)))
                found.append((2 * mp * mq + 6.5025) * (2 * c + 58.5225) / ((mp**2 + mq**2 + 6.5025) * (vp + vq + 58.5225)))
    ours = pictures.ssim(a, b)
    assert ours[0] == pytest.approx(np.mean(found), rel=1e-9) and ours[0] < 0.99
    assert pictures.ssim(a, a) == pytest.approx(1.0)


def test_perplexity_counts_equal_codes():
    assert card.perplexity(np.array([7, 7, 0, 7, 7])) == pytest.approx(4)
    assert card.perplexity(np.array([9, 0])) == 1
    assert 1 < card.perplexity(np.array([9, 1])) < 2


def test_usage_chart_has_a_bar_for_each_used_code():
    chart = card.usage_chart(np.array([5, 0, 100, 1, 0]), "codes")
    assert len(re.findall(r"z", re.search(r'path d="([^"]*)"', chart)[1])) == 3
    assert "3 of 5 used" in chart and "106 codes" in chart


def test_pieces_write_the_text_and_name_their_bytes(tokenizer):
    string = "a picture  of\n\tit"
    assert "".join(text_card.pieces(tokenizer, tokenizer.encode(string))) == string
    assert text_card.pieces(tokenizer, tokenizer.encode("\u2581")) == ["E2", "96", "81"]


def test_a_lossy_tokenizer_is_found_out(tokenizer, monkeypatch):
    assert text_card.failures(tokenizer, ["\u2581", "fine"]) == 0
    raw = tokenizer.processor.encode
    monkeypatch.setattr(tokenizer, "encode_many", lambda texts: [np.array(raw(s), np.int32) for s in texts])
    assert text_card.failures(tokenizer, ["\u2581", "fine"]) > 1


def test_pieces_per_byte_of_a_mixture_weighs_its_sources(world, tokenizer):
    world = world._replace(prose=[*world.prose, text_lib.Passage("valid", "These words were held out.", "a book")])
    mixed = text_pieces.mix(world, SHARES)
    by_hand = {}
    for name in SHARES:
        examples = documents.examples(world, name, "valid") if name in documents.TASKS else []
        texts = [p.text for e in examples for p in [*e.prompt, *e.answer] if isinstance(p, stream.Text)]
        texts += [d for split, d, _ in getattr(world, name, []) if split == "valid"]
        if texts:
            by_hand[name] = sum(len(tokenizer.encode(t)) for t in texts) / sum(len(t.encode()) for t in texts)
    assert set(mixed.shares) == set(by_hand) and len(by_hand) >= 3 and sum(mixed.shares.values()) == pytest.approx(1)
    assert mixed.pieces_per_byte(tokenizer) == pytest.approx(sum(mixed.shares[n] * by_hand[n] for n in by_hand))
    assert mixed.shares["prose"] * 2 > mixed.shares["draw"]  # five times the rows, but nearly all of them pixels


def test_size_counts_the_embedding(world, tokenizer):
    mixed = text_pieces.Mix({"names": ["ab cd"]}, {"names": 1.0}, 0.5)
    size = text_pieces.size_of(tokenizer, mixed, 4, 64, 768)
    rows = -(-(44 + 1200 + 768) // 128) * 128
    assert size.embedding_params == rows * (256 + 4 * 64) < size.params
    per_id = size.flops / (len(tokenizer.encode("ab cd")) / 5 + 0.5)
    assert size.embedding_flops_share == pytest.approx(6 * rows * 256 / per_id)


class _Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.headings = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name == "src"]
        self.headings += [value for name, value in attributes if name == "id"]


def test_log_mel_is_drawn_with_time_to_the_right_and_pitch_up():
    seconds = np.arange(16_000) / 16_000
    tone = np.where(seconds < 0.5, 0, np.sin(2 * np.pi * 500 * seconds)).astype(np.float32)  # silence, then a low tone
    drawn = logmel.picture(np.asarray(jax.jit(logmel.log_mel)(tone[None]))[0]).sum(-1, dtype=int)
    assert drawn.shape == (80, 98) and (drawn[:, :40] == drawn[0, 0]).all()
    assert 50 < drawn[:, 70].argmax() < 70 and drawn.max() > 3 * drawn[0, 0]


def test_one_page_shows_three_cards_and_loads_nothing(world, tokenizer, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audio_card, "NUM_HEARD", 2)
    folder = tmp_path / "run"
    (folder / "tokenizers").mkdir(parents=True)
    files.write_bytes(folder / "tokenizers" / "text.model", tokenizer.model_proto)
    image.save(image.ImageTokenizer(image.ImageTokenizerConfig(num_codes=16, width=72, hidden=16), nnx.Rngs(0)),
               folder / "tokenizers" / "image.safetensors")
    audio.save(audio.AudioTokenizer(audio.AudioTokenizerConfig(width=16, heads=2, layers=1, hidden=16, num_codes=8), nnx.Rngs(0)),
               folder / "tokenizers" / "audio.safetensors")
    stages = [{"name": "all", "until": 1.0, "weights": SHARES}]
    files.write_json(folder / "run.json", {"settings": {"task": {"rows": "elsewhere/rows", "stages": stages,
                                                          "audio_tokenizer": str(tmp_path / "audio" / "audio.safetensors")}}})
    files.write_bytes(tmp_path / "audio" / "audio.safetensors", (folder / "tokenizers" / "audio.safetensors").read_bytes())
    files.write_json(tmp_path / "audio" / "done.json", {"train/cer": 0.125, "valid/cer": 0.4567, "codes/used": 0.5})
    with pytest.raises(errors.InputError, match="elsewhere/world"):
        sheet.write(folder, None)
    content = sheet.write(folder, world.pictures.filename.parent.parent).read_text()
    page = _Links()
    page.feed(content)
    assert page.headings == ["text", "images", "sound"]
    assert len(page.sources) > 10 and sum(source.startswith("data:audio/wav") for source in page.sources) == 2 * 2
    assert content.count('alt="log-mel of the original"') == content.count('alt="log-mel of the codes"') == 2
    assert content.count('aria-label="how often each code is used"') == 3
    assert all(source.startswith("data:") for source in page.sources)
    printed = capsys.readouterr().out
    for line in ("strings come back exactly", "PSNR", "codes a second", "1,200", "of the variance of log-mel", "by CTC in training: valid"):
        assert line in printed and line in content
    assert [splits.half(item.chars) for item in world.items if item.split == "test_concept"] == ["assurance"]
    assert "test_concept" not in printed + content, "that half is not opened"
    assert re.search(r"46%\s+of letters misread .*: valid\n", printed) and re.search(r"12%\s+of letters misread .*: train\n", printed)


def test_figures_of_training_are_those_of_the_very_tokenizer(tmp_path):
    files.write_bytes(tmp_path / "copy", b"weights")
    trained = tmp_path / "audio" / "audio.safetensors"
    assert sheet.training_figures(tmp_path / "copy", trained) == {}, "its run is gone"
    files.write_bytes(trained, b"weights")
    assert sheet.training_figures(tmp_path / "copy", trained) == {}, "it did not end"
    files.write_json(trained.parent / "done.json", {"valid/cer": 0.5})
    assert sheet.training_figures(tmp_path / "copy", trained) == {"valid/cer": 0.5}
    files.write_bytes(trained, b"others")
    assert sheet.training_figures(tmp_path / "copy", trained) == {}, "trained again since"


def test_a_released_file_has_the_cards_of_its_run(world, run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audio_card, "NUM_HEARD", 1)
    folder, path, world_folder = tmp_path / "run", tmp_path / "model.safetensors", world.pictures.filename.parent.parent
    shutil.copytree(run_folder, folder)
    settings = files.read_json(folder / "run.json")
    settings["settings"]["task"] |= {"stages": [{"name": "all", "until": 1.0, "weights": SHARES}], "audio_tokenizer": "elsewhere"}
    files.write_json(folder / "run.json", settings)
    run.save_released(run.load(folder), path, "card")
    with pytest.raises(errors.InputError, match="give --world and --out"):
        sheet.write(path, world_folder)
    with pytest.raises(errors.InputError, match="--out: is for a released file"):
        sheet.write(folder, world_folder, tmp_path / "out")
    assert sheet.write(path, world_folder, tmp_path / "out") == tmp_path / "out" / "tokenizers.html"
    released = capsys.readouterr().out
    sheet.write(folder, world_folder)
    assert released.count("codes a second") == 1 and "misread" not in released
    # The text tokenizer is the same to the byte; the others have fewer bits.
    assert released.split("Images")[0] == capsys.readouterr().out.split("Images")[0]


def test_a_folder_without_tokenizers_is_refused(tmp_path):
    with pytest.raises(errors.InputError, match="has no tokenizers"):
        sheet.write(tmp_path, None)
