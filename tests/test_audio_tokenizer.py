"""Laws of the audio tokenizer: log-mel, padding, rate, losses, files."""

import dataclasses
import json
import time
import tracemalloc

import jax
import jax.numpy as jnp
import kaldi_native_fbank
import numpy as np
import optax
import pytest
import soundfile
from flax import nnx
from scipy import signal

import events
from gemini_mini import errors, files, nn
from gemini_mini.tasks import audio_tokenizer as task_lib
from gemini_mini.tokenizers import audio, audio_io, audio_losses, conformer, logmel, vocoder
from gemini_mini.train import loop, optim

RATE = 16_000
SMALL = audio.AudioTokenizerConfig(width=32, heads=2, layers=2, around=4, window=3, hidden=32, num_codes=64, code_dim=8)
ONE_LAYER = dataclasses.replace(SMALL, layers=1)
TINY = audio.AudioTokenizerConfig(width=16, heads=2, layers=1, hidden=16, num_codes=16, code_dim=4)


def noise(seed: int, *shape: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def chirp(samples: int, low_hz: float, high_hz: float) -> np.ndarray:
    seconds = np.arange(samples) / RATE
    return (0.3 * signal.chirp(seconds, low_hz, seconds[-1], high_hz)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer() -> audio.AudioTokenizer:
    return audio.AudioTokenizer(SMALL, nnx.Rngs(0))


def reference_log_mel(samples: np.ndarray) -> np.ndarray:
    """Straight from the definition, in float64: scipy's spectrogram and triangles by interpolation."""
    _, _, spectrum = signal.stft(
        samples.astype(np.float64), window=signal.get_window("hann", 400, fftbins=True), nperseg=400, noverlap=240,
        nfft=512, boundary=None, padded=False)
    power = np.abs(spectrum * 200) ** 2  # scipy divides by the sum of the window
    to_mel = lambda hz: 1127 * np.log(1 + hz / 700)
    corners = np.linspace(to_mel(125.0), to_mel(7500.0), 82)
    at = to_mel(np.arange(257) * RATE / 512)
    bank = np.stack([np.interp(at, corners[i : i + 3], [0, 1, 0]) for i in range(80)])
    return np.log(bank @ power + 1e-2).T


@pytest.mark.parametrize("samples", [noise(0, 5_000), chirp(16_123, 100, 7_900), np.zeros(3_000, np.float32), noise(1, 400)])
def test_log_mel_is_that_of_scipy(samples):
    got = np.asarray(logmel.log_mel(jnp.asarray(samples[None])))[0]
    wanted = reference_log_mel(samples)
    assert got.shape == wanted.shape == (logmel.num_frames(len(samples)), 80)
    np.testing.assert_allclose(got, wanted, atol=1e-4)  # float32 FFT against float64, in log units


@pytest.mark.parametrize("samples, bound", [
    (noise(0, 5_000), 1e-4), (noise(2, 16_123) * chirp(16_123, 1, 30), 1e-4), (noise(1, 400), 1e-4),
    (chirp(16_123, 100, 7_900), 2e-4)])  # the tone's energy beside itself is rounding: both are in float32
def test_log_mel_is_that_of_kaldi(samples, bound):
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither, options.frame_opts.preemph_coeff = RATE, 0, 0
    options.frame_opts.remove_dc_offset, options.frame_opts.window_type = False, "hann"
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 80, 125, 7_500
    options.use_log_fbank = False
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(RATE, samples.tolist())
    bank.input_finished()
    energies = np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])
    got = np.asarray(logmel.log_mel(jnp.asarray(samples[None])))[0]
    np.testing.assert_allclose(got, np.log(energies + 1e-2), atol=bound)


def test_log_mel_has_a_finite_gradient_even_at_silence():
    mix = noise(1, 320)
    gradient = jax.jit(jax.grad(lambda x: (audio.features(x, jnp.array([2_000]), 4).mel @ mix).sum()))
    for samples in (np.zeros((1, 2_000), np.float32), noise(0, 1, 2_000)):
        assert np.isfinite(gradient(samples)).all()


@pytest.mark.parametrize("num_samples", [0, 399, 400, 559, 560, 1_039, 1_040, 16_000, 57_600])
def test_number_of_frames(num_samples):
    mel = len(range(0, num_samples - 400 + 1, 160))  # window starts that leave room for a window
    assert logmel.num_frames(num_samples) == mel
    assert audio.num_frames(num_samples) == -(-mel // 4)
    assert audio.num_frames(np.array([num_samples])).tolist() == [-(-mel // 4)]


def test_a_second_is_25_codes():
    assert audio.num_frames(RATE) == audio.CODES_PER_S == 25


@jax.jit
def encode(tokenizer, samples, num_samples):
    mel, valid, _, _ = audio.features(samples, num_samples, tokenizer.config.around)
    return tokenizer.encode(samples, num_samples), tokenizer.directions(tokenizer.hidden(mel, valid))


def test_padding_changes_no_valid_code(tokenizer):
    lengths = np.array([16_000, 400, 11_111])
    padded = noise(7, 3, 20_000) * 9  # what stands behind the clips is loud, not zero
    for row, length in enumerate(lengths):
        padded[row, :length] = noise(row, length)
    codes, z = map(np.asarray, encode(tokenizer, padded, lengths))
    for row, length in enumerate(lengths):
        count = audio.num_frames(int(length))
        alone_codes, alone_z = map(np.asarray, encode(tokenizer, noise(row, length)[None], lengths[row : row + 1]))
        # Equal up to the order of float32 sums, which differs with the shape.
        np.testing.assert_allclose(z[row, :count], alone_z[0, :count], atol=1e-4)
        assert np.array_equal(codes[row, :count], alone_codes[0, :count])
        assert not codes[row, count:].any()


def test_features_do_not_depend_on_loudness():
    samples = jnp.asarray(8 * noise(0, 1, 16_000))
    features = jax.jit(lambda samples: audio.features(samples, jnp.array([16_000]), 32).mel)
    plain, quiet = (np.asarray(features(samples * gain)) for gain in (1.0, 0.25))
    # Not exact: the floor shows in the troughs of the noise. Without the mean removed: 1.4 or more.
    assert np.mean(np.abs(plain - quiet)) < 0.01 and np.abs(plain).mean() > 0.5


def test_features_are_those_of_what_stands_around_each_code():
    around, lengths = 8, (400, 5_123, 19_000)  # a clip of one code, one shorter and one longer than what is around a code
    padded = np.stack([np.pad(noise(i, n) * chirp(n, 1, 3), (0, 20_000 - n), constant_values=1) for i, n in enumerate(lengths)])
    got = [np.asarray(x, np.float64) for x in jax.jit(audio.features, static_argnums=2)(padded, np.array(lengths), around)]
    for i, n in enumerate(lengths):
        mel = reference_log_mel(padded[i, :n])
        for code in range(audio.num_frames(n)):
            near = mel[max(0, 4 * (code - around)) : 4 * (code + around + 1)]
            mean, spread = near.mean(0), np.sqrt(np.mean((near - near.mean(0)) ** 2) + 0.1)
            here = (mel[4 * code : 4 * code + 4] - mean) / spread
            np.testing.assert_allclose(got[0][i, code], np.pad(here, ((0, 4 - len(here)), (0, 0))).ravel(), atol=1e-3)
            np.testing.assert_allclose(got[2][i, code], mean, atol=1e-3)
            np.testing.assert_allclose(got[3][i, code], spread, atol=1e-3)
        assert got[1][i].sum() == audio.num_frames(n) and not got[0][i, audio.num_frames(n) :].any()


# --- long sound ---


@pytest.fixture()
def short_chunks(monkeypatch):
    """Chunks of 8 codes, so that a second is long; SMALL reaches 16 codes."""
    monkeypatch.setattr(audio, "BUCKETS_SAMPLES", (4_000, 9_500))
    monkeypatch.setattr(audio, "CHUNK_CODES", 8)


LENGTHS = (400, 4_000, 4_001, 9_500, 9_501, 5_000, 31_337, 24 * 640, 24 * 640 + 240, 24 * 640 + 241)


def test_encode_many_is_encode_clip(tokenizer, short_chunks):
    clips = [noise(i, n) for i, n in enumerate(LENGTHS)]
    many = audio.encode_many(tokenizer, clips, batch_clips=3)
    for clip, codes in zip(clips, many, strict=True):
        assert len(codes) == audio.num_frames(len(clip))
        assert codes.dtype == np.int32 and codes.min() >= 0 and codes.max() < SMALL.num_codes
        assert np.array_equal(codes, audio.encode_clip(tokenizer, clip))


def test_a_code_hears_as_far_as_its_reach_and_no_further(tokenizer):
    reach, samples = tokenizer.config.reach, 80 * 640 + 240
    assert reach == 4 + 2 + 2 * (3 + 2)  # statistics, strided convolutions, two layers of attention and convolution
    assert audio.AudioTokenizerConfig().reach == 88  # 3.5 s
    mix = noise(1, tokenizer.config.code_dim)

    # By gradient, for a change of sound at the edge is so faint that rounding may hide it.
    @jax.jit
    @jax.grad
    def gradient(sound, code):
        mel, valid, _, _ = audio.features(sound, jnp.array([samples]), tokenizer.config.around)
        return tokenizer.directions(tokenizer.hidden(mel, valid))[0, code] @ mix

    for code in (18, 40, 55):
        heard = np.flatnonzero(np.asarray(gradient(jnp.asarray(noise(0, 1, samples)), code)))
        # A window's first sample counts nothing. Strided convolutions look ahead alone: the past ends two codes earlier.
        assert heard.min() == 640 * (code - reach + 2) + 1
        assert heard.max() == 640 * (code + reach + 1) + 240 - 1


def test_a_change_out_of_reach_changes_nothing(tokenizer):
    sound, reach = noise(0, 1, 80 * 640), tokenizer.config.reach
    changed = sound.copy()
    changed[0, 40 * 640 : 41 * 640] += 9 * noise(1, 640)
    count = np.array([80 * 640])
    before, after = (np.asarray(encode(tokenizer, x, count)[1])[0] for x in (sound, changed))
    moved = np.abs(after - before).max(-1)
    distance = np.abs(np.arange(len(moved)) - 40)
    assert not moved[distance > reach + 1].any()  # windows stand out of the code before the change
    assert moved[distance <= 6].min() > 1e-3


def test_codes_in_chunks_are_those_of_one_piece(tokenizer, short_chunks):
    clip = noise(3, 60_000) * (1 + chirp(60_000, 1, 5) * 3)
    whole_codes, whole = (np.asarray(x)[0] for x in encode(tokenizer, clip[None], np.array([len(clip)])))
    assert np.mean(audio.encode_clip(tokenizer, clip) == whole_codes) >= 0.999
    assert np.unique(whole_codes).size > 10
    place = 0
    for piece in audio.pieces(len(clip), tokenizer.config.reach):
        part = np.zeros((1, 40 * 640 + 240), np.float32)
        part[0, : piece.stop - piece.start] = clip[piece.start : piece.stop]
        _, alone = encode(tokenizer, part, np.array([piece.stop - piece.start]))
        kept = np.asarray(alone)[0, piece.skip : piece.skip + piece.keep]
        np.testing.assert_allclose(kept, whole[place : place + piece.keep], atol=1e-4)  # float32, sums in another order
        place += piece.keep
    assert place == len(whole) == audio.num_frames(len(clip))


def reference_mel_error(tokenizer: audio.AudioTokenizer, clips: list[np.ndarray]) -> float:
    """Straight from the definition, code by code, in float64."""
    around, squares = tokenizer.config.around, []
    codebook, w_in, w_out = (np.asarray(x, np.float64) for x in (tokenizer.codebook(), tokenizer.mel_in[...], tokenizer.mel_out[...]))
    for clip in clips:
        mel, codes = reference_log_mel(clip), audio.encode_clip(tokenizer, clip)
        z = np.pad(codebook[codes], ((1, 1), (0, 0)))
        for code in range(len(codes)):
            near, here = mel[max(0, 4 * (code - around)) : 4 * (code + around + 1)], mel[4 * code : 4 * code + 4]
            wanted = (here - near.mean(0)) / np.sqrt(np.mean((near - near.mean(0)) ** 2) + 0.1)
            x = z[code : code + 3].ravel() @ w_in
            drawn = (0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))) @ w_out
            squares.append((drawn - np.pad(wanted, ((0, 4 - len(here)), (0, 0))).ravel()) ** 2)
    return float(np.mean(squares))


def test_mel_error_is_its_definition_for_short_and_long_clips(tokenizer, short_chunks):
    clips = [noise(i, n) * (1 + 3 * chirp(n, 1, 5)) for i, n in enumerate((400, 5_123, 31_337))]
    assert audio.mel_error(tokenizer, clips, batch_clips=2) == pytest.approx(reference_mel_error(tokenizer, clips), rel=1e-4)
    silent = nn.with_weights(tokenizer, nn.weights(tokenizer) | {"mel_out": tokenizer.mel_out[...] * 0})
    assert 0.7 < audio.mel_error(silent, [noise(0, 60_000)]) < 1  # the spread of noise is little above the 0.1 added to it


@pytest.mark.parametrize("block", [1_000, 7_777, 50_000])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_stream_gives_the_codes_of_the_whole(tokenizer, short_chunks, block, length):
    clip = noise(3, length)
    blocks = (clip[i : i + block] for i in range(0, length, block))
    streamed = np.concatenate(list(audio.encode_stream(tokenizer, blocks, batch_chunks=2)))
    assert np.array_equal(streamed, audio.encode_clip(tokenizer, clip))


def test_a_stream_holds_no_more_than_it_needs(tokenizer, short_chunks):
    given = 0

    def blocks():
        nonlocal given
        for i in range(60):
            given += 1_000
            yield noise(i, 1_000)

    codes = 0
    for part in audio.encode_stream(tokenizer, blocks(), batch_chunks=1):
        codes += len(part)
        # A chunk comes as soon as its context has: at most a block later.
        assert given <= max(9_500, 640 * (codes + 16) + 240) + 1_000
    assert codes == audio.num_frames(60_000)
    for bad, match in (([noise(0, 399)], "at least 400"), ([noise(0, 9_000), np.full(9, np.nan, np.float32)], "finite")):
        with pytest.raises(errors.InputError, match=match):
            list(audio.encode_stream(tokenizer, iter(bad)))


@pytest.mark.slow
def test_an_hour_is_encoded_fast_and_in_bounded_memory():
    tokenizer = audio.AudioTokenizer(audio.AudioTokenizerConfig(), nnx.Rngs(0))
    minute = noise(0, 60 * RATE)
    list(audio.encode_stream(tokenizer, [minute]))  # compiles
    tracemalloc.start()
    try:
        start, codes, on_devices = time.process_time(), 0, 0
        for part in audio.encode_stream(tokenizer, (minute for _ in range(60))):
            codes += len(part)
            on_devices = max(on_devices, sum(array.nbytes for array in jax.live_arrays()))
        spent, held = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert codes == audio.num_frames(3_600 * RATE)
    assert 3_600 / spent > 50  # times real time on one core; some 500 is usual
    assert held < 4 * minute.nbytes and on_devices < 16 * minute.nbytes  # the whole hour is 60 of them


def test_silence_is_legal_and_too_short_is_not(tokenizer):
    assert len(audio.encode_clip(tokenizer, np.zeros(14_400, np.float32))) == audio.num_frames(14_400)
    with pytest.raises(errors.InputError, match="at least 400 samples"):
        audio.encode_clip(tokenizer, np.zeros(399, np.float32))
    with pytest.raises(errors.InputError, match="finite"):
        audio.encode_clip(tokenizer, np.full(8_000, np.nan, np.float32))


def test_convolution_sees_its_neighbours_and_no_more():
    width, kernel = 8, 5
    layer = conformer.Convolution(width, kernel, nnx.Rngs(0))
    x = jnp.asarray(noise(0, 1, 20, width))
    valid = jnp.ones((1, 20), bool)
    jacobian = jax.jit(jax.jacobian(lambda x: layer(x, valid)[0].sum(-1)))(x)[:, 0].any(-1)  # output frame, input frame
    distance = np.abs(np.arange(20)[:, None] - np.arange(20)[None])
    assert np.array_equal(jacobian, distance <= kernel // 2)


@pytest.mark.parametrize("frames, window", [(12, 3), (13, 3), (9, 20)])
def test_attention_is_its_definition_within_a_window(frames, window):
    width, heads = 8, 2
    layer = conformer.Attention(width, heads, window, nnx.Rngs(0))
    x, valid = noise(0, 3, frames, width), np.arange(frames)[None] < np.array([frames, max(1, frames - 3), 1])[:, None]
    got = np.asarray(jax.jit(conformer.Attention.__call__)(layer, x, valid))
    normal = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
    q, k, v = (np.einsum("btd,dnh->btnh", normal, w[...]) for w in (layer.query, layer.key, layer.value))
    turn = np.exp(1j * np.arange(frames)[:, None] * 10_000.0 ** -np.array([0, 0.5]))[None, :, None]
    q, k = ((y[..., :2] + 1j * y[..., 2:]) * turn for y in (q, k))  # pairs as complex numbers
    for row in range(3):
        for t in np.flatnonzero(valid[row]):
            seen = [s for s in range(frames) if valid[row, s] and abs(s - t) <= window]
            wanted = 0
            for head in range(heads):
                scores = np.array([(q[row, t, head] * k[row, s, head].conj()).sum().real for s in seen]) / 2
                weights = np.exp(scores) / np.exp(scores).sum()
                wanted = wanted + sum(w * v[row, s, head] for w, s in zip(weights, seen)) @ layer.out[...][head]
            np.testing.assert_allclose(got[row, t], wanted, atol=1e-5)


def test_a_block_is_its_formula():
    block, x, valid = conformer.Block(8, 2, 4, 5, 16, nnx.Rngs(0)), 10 * noise(0, 1, 12, 8), jnp.ones((1, 12), bool)
    got = np.asarray(jax.jit(conformer.Block.__call__)(block, x, valid))
    normal = lambda x: x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    gelu = lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

    def mlp(of, x):
        return (gelu(x @ of.gate[...]) * (x @ of.up[...])) @ of.down[...]

    x = x + mlp(block.before, normal(x)) / 2
    x = x + np.asarray(jax.jit(conformer.Attention.__call__)(block.attention, x, valid))  # whose law is above
    of = block.convolution
    gated = normal(x) @ of.up[...] * sigmoid(normal(x) @ of.gate[...])
    wide = np.pad(gated, ((0, 0), (2, 2), (0, 0)))
    near = normal(sum(wide[:, i : i + 12] * of.depthwise[...][i] for i in range(5)))
    x = x + near * sigmoid(near) @ of.down[...]
    x = x + mlp(block.after, normal(x)) / 2
    np.testing.assert_allclose(got, normal(x), atol=1e-5)


def test_every_layer_ignores_what_is_not_valid():
    block = conformer.Block(8, 2, 4, 5, 16, nnx.Rngs(0))
    x, other = noise(0, 1, 12, 8), noise(1, 1, 12, 8)
    valid = jnp.arange(12)[None] < 7
    changed = jnp.where(valid[..., None], x, other)
    run = jax.jit(conformer.Block.__call__)
    assert np.array_equal(np.asarray(run(block, x, valid))[:, :7], np.asarray(run(block, changed, valid))[:, :7])


def test_codebook_starts_spread_and_cannot_be_scaled_away(tokenizer):
    codebook = np.asarray(tokenizer.codebook())
    np.testing.assert_allclose(np.linalg.norm(codebook, axis=-1), 1, atol=1e-4)
    assert (codebook @ codebook.T - np.eye(len(codebook)) < 0.999).all()
    assert np.array_equal(tokenizer.nearest(jnp.asarray(codebook[None])), np.arange(len(codebook))[None])


def test_frozen_numbers_never_change():
    # The codebook is not stored: these numbers are part of every trained tokenizer.
    np.testing.assert_allclose(audio.frozen_normal(0, 2, 2).ravel(), [1.7640524, 0.4001572, 0.978738, 2.2408931], rtol=1e-6)


def test_save_and_load(tokenizer, tmp_path):
    audio.save(tokenizer, tmp_path / "audio.safetensors")
    loaded = audio.load(tmp_path / "audio.safetensors")
    assert loaded.config == tokenizer.config
    clip = noise(0, 20_000)
    assert np.array_equal(audio.encode_clip(loaded, clip), audio.encode_clip(nn.rounded(tokenizer), clip)), "in 8 bits"
    arrays, _ = files.load_arrays(tmp_path / "audio.safetensors")
    files.save_arrays(tmp_path / "other", arrays, {"config": json.dumps(dataclasses.asdict(TINY))})
    with pytest.raises(errors.InputError, match="weights:"):
        audio.load(tmp_path / "other")
    files.save_arrays(tmp_path / "other", arrays, {})
    with pytest.raises(errors.InputError, match="no audio tokenizer"):
        audio.load(tmp_path / "other")
    older = {name: value for name, value in dataclasses.asdict(SMALL).items() if name != "window"}
    files.save_arrays(tmp_path / "other", arrays, {"config": json.dumps(older)})
    with pytest.raises(errors.InputError, match="window"):
        audio.load(tmp_path / "other")


def small_batch() -> audio_losses.AudioBatch:
    samples = np.stack([chirp(14_400, 200, 3_000), chirp(14_400, 3_000, 200), chirp(14_400, 500, 6_000), noise(0, 14_400)])
    letters = np.array([[1, 2, 3, 0], [3, 2, 1, 0], [1, 4, 0, 0], [5, 0, 0, 0]], np.int32)
    return audio_losses.AudioBatch(*map(jnp.asarray, (samples, np.array([14_400, 14_400, 9_000, 12_000]), letters)))


@pytest.fixture(scope="module")
def trainer() -> audio_losses.AudioTrainer:
    return audio_losses.AudioTrainer(ONE_LAYER, audio_losses.AudioLossConfig(), 5, nnx.Rngs(0))


def test_targets_are_those_of_the_paper_and_never_trained(trainer):
    config = audio_losses.AudioLossConfig()
    mel = np.asarray(audio.features(*small_batch()[:2], 32).mel)
    got = audio_losses.random_targets(jnp.asarray(mel), config)
    projection = np.random.RandomState(1).standard_normal((mel.shape[-1], config.target_dim))
    codebook = np.random.RandomState(2).standard_normal((config.num_targets, config.target_dim))
    z = mel @ projection
    z /= np.linalg.norm(z, axis=-1, keepdims=True) + 1e-9
    codebook /= np.linalg.norm(codebook, axis=-1, keepdims=True)
    distances = np.linalg.norm(z[..., None, :] - codebook, axis=-1)  # of unit vectors: by cosine, as in USM, section 2.2
    best = np.sort(distances, -1)
    clear = best[..., 1] - best[..., 0] > 1e-4
    assert clear.mean() > 0.7 and np.array_equal(np.asarray(got)[clear], distances.argmin(-1)[clear])


def test_spans_cover_what_is_asked_and_only_valid_frames():
    config = audio_losses.AudioLossConfig(mask_start=0.05, mask_frames=3)
    valid = np.arange(400)[None] < np.array([400, 300] * 20)[:, None]
    masked = np.asarray(audio_losses.random_spans(jax.random.key(0), jnp.asarray(valid), config))
    assert not masked[~valid].any()
    assert abs(masked[valid].mean() - (1 - 0.95**3)) < 0.02
    edges = np.diff(np.pad(masked[0, :399], 1).astype(int))
    runs = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    assert (runs[1:-1] >= 3).all()


def test_gradient_goes_through_the_codes_to_every_weight(trainer):
    (loss, parts), gradient = jax.jit(jax.value_and_grad(audio_losses.AudioTrainer.loss, has_aux=True))(
        trainer, small_batch(), jax.random.key(1))
    config = trainer.config
    wanted = (config.best_rq * parts["best_rq"] + config.ctc * parts["ctc"] + config.distance * parts["distance"]
              + config.mel * parts["mel"])
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    for name, array in nn.weights(gradient).items():
        untrained = name in ("tokenizer.mel_mean", "tokenizer.mel_spread")  # statistics, set at export
        assert np.isfinite(array).all() and np.any(array) != untrained, name


def test_padding_and_empty_rows_change_no_loss(trainer):
    batch = small_batch()
    longer = audio_losses.AudioBatch(
        jnp.concatenate([jnp.pad(batch.samples, ((0, 0), (0, 8_000))), noise(5, 2, 22_400)]),
        jnp.append(batch.num_samples, jnp.array([0, 0])), jnp.pad(batch.letters, ((0, 2), (0, 3))))
    quiet = dataclasses.replace(trainer.config, mask_start=0.0)
    module = audio_losses.AudioTrainer(ONE_LAYER, quiet, 5, nnx.Rngs(0))
    loss = jax.jit(audio_losses.AudioTrainer.loss)
    padded = loss(module, longer, jax.random.key(0))[1]
    for name, value in loss(module, batch, jax.random.key(0))[1].items():
        np.testing.assert_allclose(value, padded[name], rtol=1e-3, err_msg=name)


@pytest.mark.slow
def test_one_batch_can_be_learnt_by_heart():
    module = audio_losses.AudioTrainer(ONE_LAYER, audio_losses.AudioLossConfig(mask_start=0.0), 5, nnx.Rngs(0))
    weights, batch = nn.weights(module), small_batch()
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(weights, state):
        loss = lambda w: nn.with_weights(module, w).loss(batch, jax.random.key(0))
        (_, parts), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(weights, updates), state, parts

    state = optimizer.init(weights)
    for _ in range(150):
        weights, state, parts = step(weights, state)
    assert parts["ctc"] < 0.3  # nats a letter, read from the codes; log(6) = 1.8 knows nothing
    _, best, valid = nn.with_weights(module, weights).read(batch.samples, batch.num_samples)
    read = [task_lib.collapse(row[ok].tolist()) for row, ok in zip(np.asarray(best), np.asarray(valid), strict=True)]
    assert read == [[int(c) for c in row if c] for row in batch.letters]


# --- the task ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder laid out as data_prep/emoji_world.py lays out speech: two shards of a few tones."""
    folder = tmp_path_factory.mktemp("world")
    names = ["Ab", "ba", "cab", "bee"]
    files.write_json(folder / "pictures" / "items.json", [{"names": {"en": name, "de": name + "é"}} for name in names])
    said, waves = [], []
    for index in range(24):
        split = "train" if index % 6 else "valid"
        said.append([index % 4, "de" if index == 6 else "en", index % 3, split])
        waves.append(np.round(30_000 * chirp(6_000 + 500 * index, 200 + 50 * index, 3_000)).astype(np.int16))
    files.write_json(folder / "speech" / "clips" / "clips.json", said)
    for shard, part in enumerate((waves[:14], waves[14:])):
        place = folder / "speech" / f"{shard:04d}"
        place.mkdir(parents=True)
        np.save(place / "samples.npy", np.concatenate(part))
        np.save(place / "lengths.npy", np.array([len(w) for w in part], np.int32))
    files.write_json(folder / "built.json", {"content": "x"})
    return folder


@pytest.fixture(scope="module")
def task(world):
    return task_lib.TrainAudioTokenizer(
        world=str(world), model=TINY, losses=audio_losses.AudioLossConfig(num_targets=8), short=(0.7, 4, 4), long=(1.2, 4, 2),
        speeds=0.0)


def test_figures_are_of_clips_spread_over_all(task):
    train = [clip for clip in task.speech.clips if clip.split == "train"]
    assert task_lib.spread(train, 3) == [train[0], train[round((len(train) - 1) / 2)], train[-1]]
    lengths = {int(n) for batch in task.all_batches(("train",), 3) for n in batch.num_samples if n}
    assert lengths <= {len(clip.samples) for clip in task_lib.spread(train, 3)} and len(lengths) > 1


def test_world_is_read(task):
    speech = task.speech
    assert speech.letters == "abce"  # lower case, of the training clips only: é is said once, in valid
    assert speech.spell("CAB") == [3, 1, 2] and speech.spell("cabó") == speech.spell("") == []
    assert [clip.text for clip in speech.clips[:4]] == ["Ab", "ba", "cab", "bee"]
    assert [len(clip.samples) for clip in speech.clips] == [6_000 + 500 * i for i in range(24)]
    with pytest.raises(errors.InputError, match="no finished world"):
        task_lib.read_world("nowhere")


def test_rare_letters_are_not_spelt_and_syllables_come_apart(monkeypatch, world):
    monkeypatch.setattr(task_lib, "RARE", 0.6)
    few = task_lib.read_world(world)
    in_clip = [set(clip.text.lower()) for clip in few.clips if clip.split == "train"]
    assert few.letters == "".join(c for c in "abce" if np.mean([c in said for said in in_clip]) >= 0.6)
    assert 0 < len(few.letters) < 4
    assert task_lib.decompose("É한") == "e\u0301\u1112\u1161\u11ab"


def test_batches_are_a_function_of_seed_and_step_and_show_each_clip_once_an_epoch(task):
    batch = task.batches(100, 3)
    again = task.batches(7, 3)
    for step in (0, 5, 2, 31):
        for a, b in zip(batch(step), again(step), strict=True):
            assert np.array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(batch(0), task.batches(100, 4)(0), strict=True)
               if a.shape == b.shape) or batch(0).samples.shape != task.batches(100, 4)(0).samples.shape
    short, long = (group for group in task._sort([c for c in task.speech.clips if c.split == "train"]))
    steps = len(short) // 4 + len(long) // 2
    for epoch in (0, 1):
        seen = np.concatenate([batch(epoch * steps + i).num_samples for i in range(steps)])
        assert len(seen) == len(set(seen.tolist())) == len(short) // 4 * 4 + len(long) // 2 * 2
    sample = batch(0)
    row = next(c for c in task.speech.clips if len(c.samples) == sample.num_samples[0])
    np.testing.assert_allclose(sample.samples[0, : sample.num_samples[0]], row.samples / 32768, atol=1e-7)
    assert "".join(task.speech.letters[i - 1] for i in sample.letters[0] if i) == row.text.lower()


def test_clips_too_few_to_fill_a_batch_are_heard_too(task):
    few = dataclasses.replace(task, short=(0.7, 4, 99))
    short, long = (group for group in task._sort([c for c in task.speech.clips if c.split == "train"]))
    batch = few.batches(100, 3)
    heard = {int(n) for step in range(1 + len(long) // 2) for n in batch(step).num_samples if n}
    assert {len(clip.samples) for clip in short} <= heard and heard & {len(clip.samples) for clip in long}


def test_clips_are_heard_at_other_speeds_and_still_fit(task):
    """Each row is one clip, by its wave and by what it says, and evaluation hears all at their own speed."""
    varied = dataclasses.replace(task, speeds=0.15)
    train = [clip for clip in task.speech.clips if clip.split == "train"]
    batch, ratios = varied.batches(100, 3), []
    for step in range(30):
        heard = batch(step)
        assert all(np.array_equal(a, b) for a, b in zip(heard, varied.batches(40, 3)(step), strict=True))
        for row, size, letters in zip(heard.samples, heard.num_samples, heard.letters):
            alike = [np.corrcoef(signal.resample(clip.samples / 32768, size), row[:size])[0, 1] for clip in train]
            clip = train[int(np.argmax(alike))]
            assert max(alike) > 0.8 > 0.2 > sorted(alike)[-2] and not row[size:].any()
            assert "".join(task.speech.letters[i - 1] for i in letters if i) == clip.text.lower()
            ratios.append(len(clip.samples) / size)
    assert 0.85 - 1e-3 <= min(ratios) < 0.9 and 1.1 < max(ratios) <= 1.15 + 1e-3 and len(set(ratios)) > 40
    for a, b in zip(task.all_batches(("train",)), varied.all_batches(("train",)), strict=True):
        assert np.array_equal(a.samples, b.samples)
    full = task_lib.Spoken(train[0].samples[: audio.MEL_PER_CODE * 160 * 6], "abcabe", "train")  # as many codes as letters, nearly
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(50):
        sizes.add(len(varied._otherwise(full, 0.7, rng).samples))
        assert task_lib.has_room(varied.speech.spell(full.text), min(sizes))
    assert len(sizes) > 5
    with pytest.raises(errors.InputError, match="task.speeds"):
        dataclasses.replace(task, speeds=1.0)


def test_recorded_speech_is_read_from_a_folder(tmp_path):
    for rate_hz, name in ((8_000, "one.wav"), (16_000, "two.flac")):
        soundfile.write(tmp_path / name, chirp(rate_hz // 2, 200, 2_000), rate_hz)
    listing = tmp_path / "transcripts.tsv"
    with pytest.raises(errors.InputError, match="no such file"):
        task_lib.read_folder(tmp_path)
    listing.write_text("one.wav\tOne\ntwo.flac\ttwo two\n")
    clips = task_lib.read_folder(tmp_path)
    assert [(clip.text, len(clip.samples), clip.split) for clip in clips] == [
        ("one", 8_000, "recorded"), ("two two", 8_000, "recorded")]
    listing.write_text("one.wav One\n")
    with pytest.raises(errors.InputError, match="line 1 must be"):
        task_lib.read_folder(tmp_path)
    listing.write_text("three.wav\tthree\n")
    with pytest.raises(errors.InputError, match="three.wav: no such file"):
        task_lib.read_folder(tmp_path)


@pytest.mark.slow
def test_every_evaluation_shows_what_is_kept(task, tmp_path):
    task = dataclasses.replace(task, short=(0.7, 4, 8), long=(1.2, 4, 8))  # for 8 devices
    loop.run(task, optim.OptimConfig(lr=0.1), loop.RunConfig(str(tmp_path), steps=2, eval_every=1), {})
    shown = events.read(tmp_path)["original_and_decoded"]
    originals, decoded = (np.stack([sheet[place] for sheet in shown.values()]) for place in np.split(np.arange(2 * logmel.NUM_MEL), 2))
    assert shown.keys() == {1, 2} and (originals[0] == originals[1]).all() and (decoded[0] != decoded[1]).any()


@pytest.mark.slow
def test_task_evaluates_and_exports(task, tmp_path):
    module = task.init(nnx.Rngs(0))
    figures = task.evals(module)
    assert {"train/cer", "valid/cer", "codes/used", "codes/perplexity", "codes/changes", "original_and_decoded"} == set(figures)
    sheet = figures["original_and_decoded"]
    (clip, *_) = [clip for clip in task.speech.clips if clip.split == "valid"]
    mel = np.asarray(logmel.log_mel(jnp.asarray(clip.samples[None] / np.float32(32768))))[0]
    assert sheet.shape[0] == 2 * logmel.NUM_MEL and sheet.dtype == np.uint8
    np.testing.assert_allclose(sheet[: logmel.NUM_MEL, : len(mel)], logmel.picture(mel), atol=2)
    assert 0 < figures["codes/used"] <= 1 <= figures["codes/perplexity"] <= TINY.num_codes
    task.export(module, tmp_path)
    exported = audio.load(tmp_path / "audio.safetensors")
    kept = [c.samples / np.float32(32768) for group in task._sort([c for c in task.speech.clips if c.split == "train"])
            for c in group]
    # These clips are no longer than what is around a code: each code takes out its whole clip's mean.
    means, codes = [reference_log_mel(samples).mean(0) for samples in kept], [audio.num_frames(len(s)) for s in kept]
    np.testing.assert_allclose(exported.mel_mean[...], np.average(means, 0, codes), atol=1e-3)
    clip = noise(0, 9_000)
    assert np.array_equal(audio.encode_clip(audio.load(tmp_path / "audio.safetensors"), clip),
                          audio.encode_clip(nn.rounded(module.tokenizer), clip))
    assert task.batch_tokens() > 0 and task.batch_flops() > 0


def test_collapse():
    assert task_lib.collapse([0, 1, 1, 0, 1, 2, 2, 0]) == [1, 1, 2]
    assert task_lib.collapse([]) == []


# --- hearing what was kept ---


def test_decode_undoes_what_features_took_out(tokenizer):
    weights = nn.weights(tokenizer) | {"mel_mean": jnp.arange(80.0), "mel_spread": jnp.array([3.0])}
    codes = jnp.arange(12)[None]
    plain, moved = (np.asarray(module.decode(codes)) for module in (tokenizer, nn.with_weights(tokenizer, weights)))
    assert plain.shape == (1, 48, 80) and np.isfinite(plain).all() and plain.std() > 0
    np.testing.assert_allclose(moved, 3 * plain + np.arange(80), atol=1e-4)


def test_overlap_add_inverts_the_spectrum():
    samples = noise(0, 8_080)
    np.testing.assert_allclose(vocoder.overlap_add(vocoder.spectrum(samples))[200:-200], samples[200:-200], atol=1e-6)


def test_griffin_lim_finds_sound_of_these_magnitudes():
    seconds = np.arange(2 * RATE) / RATE
    voice = sum(0.1 * np.sin(2 * np.pi * 150 * n * (seconds + 0.1 * seconds**2)) for n in range(1, 20))
    _, _, wanted = signal.stft(voice, window="hann", nperseg=400, noverlap=240, nfft=512, boundary=None, padded=False)
    made = vocoder.griffin_lim(np.abs(wanted).T * 200)
    _, _, got = signal.stft(made, window="hann", nperseg=400, noverlap=240, nfft=512, boundary=None, padded=False)
    # The spectral convergence; random phases without an iteration give 0.6.
    assert np.linalg.norm(np.abs(got) - np.abs(wanted)) / np.linalg.norm(wanted) < 0.15
    rough = vocoder.spectrum(vocoder.griffin_lim(np.abs(wanted).T * 200, 0))
    assert np.linalg.norm(np.abs(rough).T / 200 - np.abs(wanted)) / np.linalg.norm(wanted) > 0.3


def test_sound_from_log_mel_has_that_log_mel():
    samples = chirp(16_000, 200, 5_000)
    mel = reference_log_mel(samples)
    made = vocoder.from_log_mel(mel)
    again = reference_log_mel(made * np.abs(samples).max() / np.abs(made).max())
    assert len(made) == 97 * 160 + 400 and np.corrcoef(mel.ravel(), again.ravel())[0, 1] > 0.95


def test_listen_writes_sound_and_never_over_its_source(tokenizer, tmp_path):
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    audio_io.write_wav(source, chirp(20_000, 200, 3_000))
    audio.save(tokenizer, tmp_path / "audio.safetensors")
    audio.listen(source, target, tmp_path)
    made = audio_io.read_audio(target)
    assert abs(len(made) - 20_000) < 1_000 and np.abs(made).max() > 0.1
    before = source.read_bytes()
    with pytest.raises(errors.InputError, match="overwrite"):
        audio.listen(source, tmp_path / "." / "in.wav", tmp_path)
    with pytest.raises(errors.InputError, match="ends in .wav"):
        audio.listen(source, tmp_path / "out.mp3", tmp_path)
    with pytest.raises(errors.InputError, match="no audio tokenizer"):
        audio.listen(source, target, tmp_path / "nowhere")
    with pytest.raises(errors.InputError, match="no such file"):
        audio.listen(tmp_path / "none.wav", target, tmp_path)
    assert source.read_bytes() == before


def test_sound_made_in_chunks_is_as_near_as_in_one_piece(monkeypatch):
    clip = chirp(30_000, 300, 3_000) + noise(0, 30_000) / 3
    mel = np.asarray(logmel.log_mel(jnp.asarray(clip[None])))[0]
    whole = vocoder.from_log_mel(mel)
    monkeypatch.setattr(vocoder, "CHUNK_FRAMES", 50)
    sizes, raw = [], vocoder.griffin_lim
    monkeypatch.setattr(vocoder, "griffin_lim", lambda magnitude: sizes.append(len(magnitude)) or raw(magnitude))
    chunked = vocoder.from_log_mel(mel)
    assert len(sizes) == 4 and max(sizes) == 50, "no more at once, however long"
    assert len(chunked) == len(whole) == (len(mel) - 1) * 160 + 400

    def missed(samples):  # log energies as they were asked for, but for how loud it is
        made = np.asarray(logmel.log_mel(jnp.asarray(samples[None] * 2)))[0]
        return np.abs((made - mel) - np.median(made - mel)).mean(1)

    at_seam = np.any([np.abs(np.arange(len(mel)) - seam) <= 4 for seam in (48, 96, 144)], axis=0)
    assert missed(chunked)[~at_seam].mean() < 1.2 * missed(whole).mean()
    assert missed(chunked)[at_seam].mean() < 0.35  # nats of energy, 0.25 as it is; muted in place of faded: 0.4


@pytest.mark.parametrize("frames", [1, 2, 3, 39, 40, 41, 77, 78, 79, 90])
def test_chunks_of_sound_meet_whatever_its_length(monkeypatch, frames):
    monkeypatch.setattr(vocoder, "CHUNK_FRAMES", 40)
    monkeypatch.setattr(vocoder, "griffin_lim", lambda magnitude: np.ones((len(magnitude) - 1) * 160 + 400))
    made = vocoder.from_log_mel(np.zeros((frames, 80), np.float32)) / vocoder.LOUDEST
    assert len(made) == (frames - 1) * 160 + 400
    # sin + cos is 1 at both ends of a fade and sqrt(2) in its middle; the result is scaled to its loudest.
    assert made.max() == pytest.approx(1) and made.min() == pytest.approx(1 if frames <= 40 else 0.5**0.5, abs=1e-3)


def test_listen_takes_more_than_a_minute_and_at_most_its_limit(tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vocoder, "griffin_lim", lambda magnitude: vocoder.overlap_add(magnitude + 0j))  # fast
    audio.save(tokenizer, tmp_path / "audio.safetensors")
    sound = np.concatenate([chirp(RATE, 200 + i, 3_000) for i in range(65)])
    audio_io.write_wav(tmp_path / "in.wav", sound)
    audio.listen(tmp_path / "in.wav", tmp_path / "out.wav", tmp_path)
    whole = audio.encode_clip(nn.rounded(tokenizer), audio_io.read_audio(tmp_path / "in.wav", 70.0))
    assert f"{len(whole)} codes, {len(np.unique(whole))} of them different, for 65.0 s" in capsys.readouterr().out
    assert abs(soundfile.info(tmp_path / "out.wav").duration - 65) < 0.1
    monkeypatch.setattr(audio, "LISTEN_S", 64.0)
    with pytest.raises(errors.InputError, match="lasts 65.0 s, but at most 64 s"):
        audio.listen(tmp_path / "in.wav", tmp_path / "out.wav", tmp_path)


# --- files ---


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000, 22_051])
def test_blocks_are_the_file_resampled_at_once(tmp_path, rate_hz):
    sound = (0.2 * np.random.default_rng(0).standard_normal((3 * rate_hz + 77, 2))).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, rate_hz, subtype="FLOAT")
    common = np.gcd(rate_hz, RATE)
    whole = signal.resample_poly(sound.mean(1), RATE // common, rate_hz // common) if rate_hz != RATE else sound.mean(1)
    for block_s in (0.3, 1.0, 10.0):
        blocks = list(audio_io.read_blocks(tmp_path / "a.wav", block_s=block_s))
        assert len(blocks) > 1 or block_s > 3 or rate_hz == 22_051
        np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_read_audio_keeps_pitch_length_and_level(tmp_path, rate_hz, suffix):
    seconds = np.arange(rate_hz) / rate_hz
    tone = 0.5 * np.sin(2 * np.pi * 1_000 * seconds)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([tone, 0.5 * tone], 1), rate_hz)
    samples = audio_io.read_audio(tmp_path / f"a.{suffix}")
    assert samples.dtype == np.float32 and abs(len(samples) - RATE) <= 2
    middle = samples[2_000:14_000] * np.hanning(12_000)
    peak_hz = np.argmax(np.abs(np.fft.rfft(middle))) * RATE / 12_000
    assert abs(peak_hz - 1_000) < 2
    assert abs(np.abs(samples[2_000:14_000]).max() - 0.375) < 0.04  # mean of both channels


def test_resampling_keeps_the_wave_between_samples_at_full_scale():
    quarter = np.sqrt(2) * np.sin(np.pi * np.arange(8_000) / 2 + np.pi / 4)  # every sample is 1 or -1, the wave between is not
    for sound, rate_hz in ((quarter, 8_000), (4 * chirp(9_000, 100, 3_000), 48_000), (4 * chirp(9_000, 100, 3_000), RATE)):
        made = audio_io.resample(sound, rate_hz)
        common = np.gcd(rate_hz, RATE)
        wanted = signal.resample_poly(sound, RATE // common, rate_hz // common) if rate_hz != RATE else sound
        np.testing.assert_allclose(made, wanted, atol=1e-6)
        assert np.abs(made).max() > 1.05
        # In 16 bits what is too loud is at full scale and on its own side.
        bits = audio_io.sixteen_bits(made).astype(np.float64) / 32767
        np.testing.assert_allclose(bits, np.minimum(1, np.maximum(-1, made)), atol=0.51 / 32767)


def test_resampling_does_not_fold_high_tones_down(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 15_000 * np.arange(48_000) / 48_000)  # would fold to 1 kHz
    soundfile.write(tmp_path / "a.wav", tone, 48_000)
    assert np.abs(audio_io.read_audio(tmp_path / "a.wav")[1_000:-1_000]).max() < 1e-2


def test_write_and_read_again(tmp_path):
    samples = chirp(12_345, 100, 4_000)
    audio_io.write_wav(tmp_path / "a.wav", samples)
    np.testing.assert_allclose(audio_io.read_audio(tmp_path / "a.wav"), samples, atol=2 / 32768)
    audio_io.write_wav(tmp_path / "loud.wav", samples * 10)
    assert np.abs(audio_io.read_audio(tmp_path / "loud.wav")).max() <= 1


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_a_file_that_was_cut_is_not_taken_for_a_shorter_one(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, chirp(RATE, 100, 4_000), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    assert len(audio_io.read_audio(path)) == RATE - 1, "a sample is no loss"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(errors.InputError, match=f"a.{suffix}: is cut short"):
        audio_io.read_audio(path)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_length_that_was_not_known_is_no_cut(tmp_path, length):
    """As ffmpeg and sox write into a pipe."""
    soundfile.write(tmp_path / "a.wav", np.full(RATE, 0.1), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = length.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    assert len(audio_io.read_audio(tmp_path / "a.wav")) == RATE


def test_bad_files_say_what_to_do(tmp_path):
    wav = tmp_path / "a.wav"
    with pytest.raises(errors.InputError, match="no such file"):
        audio_io.read_audio(wav)
    wav.write_bytes(b"this is no sound at all")
    with pytest.raises(errors.InputError, match="could not be read as sound"):
        audio_io.read_audio(wav)
    soundfile.write(wav, np.zeros(0), RATE)
    with pytest.raises(errors.InputError, match="holds no sound"):
        audio_io.read_audio(wav)
    soundfile.write(wav, np.array([0.0, np.nan, 0.1]), RATE, subtype="FLOAT")
    with pytest.raises(errors.InputError, match="not finite"):
        audio_io.read_audio(wav)
    soundfile.write(wav, np.zeros(3 * RATE), RATE)
    with pytest.raises(errors.InputError, match="lasts 3.0 s, but at most 2 s"):
        audio_io.read_audio(wav, max_seconds=2.0)
    assert len(audio_io.read_audio(wav, max_seconds=3.0)) == 3 * RATE


def test_too_long_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(3 * RATE), RATE)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(errors.InputError, match="lasts"):
        audio_io.read_audio(tmp_path / "a.wav", max_seconds=2.0)
