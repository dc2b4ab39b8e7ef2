"""The image tokenizer: its laws with white paper, its codebook, its task, and picture files."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

import events
from gemini_mini import errors, files, nn
from gemini_mini.tasks import image_tokenizer as task_lib
from gemini_mini.tokenizers import image, image_io, quantisers
from gemini_mini.train import loop, optim

SMALL = image.ImageTokenizerConfig(
    num_codes=32, code_dim=4, width=24, hidden=32, encoder_layers=1, decoder_layers=2, shifted=2)
LAYERS_SEEN = SMALL.decoder_layers  # each looks one patch further


@pytest.fixture(scope="module")
def tokenizer() -> image.ImageTokenizer:
    return image.ImageTokenizer(SMALL, nnx.Rngs(0))


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random((*shape, 3)), jnp.float32)


def on_canvas(picture: jax.Array, top: int, left: int, size: int) -> jax.Array:
    """The picture on a square white canvas."""
    rows, height, width, _ = picture.shape
    return jnp.ones((rows, size, size, 3)).at[:, top : top + height, left : left + width].set(picture)


# Laws of white: they hold for any weights, so random ones test them.


@pytest.mark.parametrize(("height", "width"), [(4, 4), (16, 16), (8, 24), (32, 32), (64, 12), (64, 32), (64, 64), (128, 128)])
def test_any_multiple_of_the_patch_works_and_ids_are_in_range(tokenizer, height, width):
    codes = tokenizer.encode(noise(2, height, width))
    drawn = tokenizer.decode(codes)
    assert codes.shape == (2, height // 4, width // 4) and codes.dtype == jnp.int32
    assert 0 <= int(codes.min()) and int(codes.max()) < SMALL.num_codes
    assert drawn.shape == (2, height, width, 3) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1


@pytest.mark.parametrize(("top", "left"), [(0, 0), (8, 12), (16, 16)])
def test_a_picture_on_a_larger_canvas_keeps_its_codes(tokenizer, top, left):
    picture = noise(2, 16, 16)
    codes, large = tokenizer.encode(picture), tokenizer.encode(on_canvas(picture, top, left, 32))
    y, x = top // 4, left // 4
    assert len(np.unique(codes)) > 5
    np.testing.assert_array_equal(large[:, y : y + 4, x : x + 4], codes)
    outside = np.ones((8, 8), bool)
    outside[y : y + 4, x : x + 4] = False
    assert not np.asarray(large)[:, outside].any()  # white is code 0


def test_a_code_depends_on_its_own_patch_alone(tokenizer):
    picture = noise(1, 16, 12)
    codes = tokenizer.encode(picture)
    for y in range(4):
        for x in range(3):
            patch = picture[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            assert int(tokenizer.encode(patch)[0, 0, 0]) == int(codes[0, y, x])


def test_paper_that_is_nearly_white_is_white(tokenizer):
    assert not np.asarray(tokenizer.encode(1 - noise(4, 32, 32) / 100)).any()
    np.testing.assert_array_equal(tokenizer.decode(jnp.zeros((1, 3, 5), jnp.int32)), 1.0)


def test_a_drawing_moves_with_its_codes_and_reaches_as_far_as_there_are_layers(tokenizer):
    content = jnp.asarray(np.random.default_rng(1).integers(1, SMALL.num_codes, (1, 2, 2)), jnp.int32)
    paper = jnp.zeros((1, 2 * LAYERS_SEEN + 4, 2 * LAYERS_SEEN + 4), jnp.int32)
    here, there = (tokenizer.decode(paper.at[:, at : at + 2, at : at + 2].set(content))
                   for at in (LAYERS_SEEN, LAYERS_SEEN + 1))
    np.testing.assert_allclose(here[:, :-4, :-4], there[:, 4:, 4:], atol=1e-6)
    assert float(jnp.std(here)) > 0.01
    np.testing.assert_array_equal(there[:, :4], 1.0)  # one patch beyond the reach of the layers
    assert float(jnp.min(here[:, :4])) < 1.0


def test_a_side_that_is_no_multiple_of_the_patch_is_named(tokenizer):
    with pytest.raises(errors.InputError, match="30×32"):
        tokenizer.encode(noise(1, 30, 32))


# The parts against plain numpy.


def test_patches_are_squares_in_reading_order_and_come_back():
    pixels = noise(2, 8, 12)
    patches = np.asarray(image.to_patches(pixels, 4))
    for y in range(2):
        for x in range(3):
            square = np.asarray(pixels)[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            np.testing.assert_array_equal(patches[:, y, x], square.reshape(2, -1))
    np.testing.assert_array_equal(image.from_patches(jnp.asarray(patches), 4), pixels)


def test_looking_around_takes_channels_from_each_neighbour():
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 20)).astype(np.float32)
    expected = x.copy()
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    for n, (down, right) in enumerate(steps):
        channels = slice(4 + 2 * n, 6 + 2 * n)
        for row in range(3):
            for column in range(4):
                inside = 0 <= row + down < 3 and 0 <= column + right < 4
                expected[0, row, column, channels] = x[0, row + down, column + right, channels] if inside else 0
    np.testing.assert_array_equal(image.look_around(jnp.asarray(x), 2), expected)


@pytest.mark.parametrize("at_once", [300, 1 << 21])
def test_nearest_is_the_brute_force_one_in_pieces_too(at_once, monkeypatch):
    monkeypatch.setattr(quantisers, "CACHED_DISTANCES", at_once)
    rng = np.random.default_rng(0)
    points, table = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32)
    table[7] = table[2]  # of equals the first
    far = ((points[:, None] - table[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(quantisers.nearest(jnp.asarray(points), jnp.asarray(table)), far.argmin(1))
    closed = np.array([np.inf, 0, 3, 0, np.inf, 0, 0, 0, 0])
    np.testing.assert_array_equal(quantisers.nearest(jnp.asarray(points), jnp.asarray(table), jnp.asarray(closed, jnp.float32)), (far + closed).argmin(1))


# Quantisers.

KINDS = {kind: dataclasses.replace(SMALL, quantiser=kind) for kind in ("pulled", "rotation", "simvq")}
KINDS["fsq"] = dataclasses.replace(SMALL, quantiser="fsq", levels=(4, 2, 5), num_codes=40)


@pytest.fixture(params=KINDS)
def kind(request) -> image.ImageTokenizer:
    return image.ImageTokenizer(KINDS[request.param], nnx.Rngs(0))


def latents(count: int, dim: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(2).normal(size=(count, dim)), jnp.float32)


def test_every_kind_rounds_to_the_nearest_of_its_vectors(kind):
    z = latents(200, kind.config.values)
    compared, book = np.asarray(kind.quantiser.bound(z)), np.asarray(kind.quantiser.vectors())
    expected = np.argmin(((compared[:, None].astype(np.float64) - book[None]) ** 2).sum(-1), axis=1)
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(quantisers.ids(kind.quantiser, z), expected)
    np.testing.assert_allclose(kind.quantiser.tie(z)[0], book[expected], atol=1e-5)


def test_white_is_code_zero_for_every_kind_even_if_the_encoder_looks_around(kind):
    seeing = image.ImageTokenizer(dataclasses.replace(kind.config, encoder_shifted=2), nnx.Rngs(0))
    np.testing.assert_allclose(kind.quantiser.bound(jnp.zeros((1, kind.config.values))), 0.0, atol=1e-6)
    for module in (kind, seeing):
        assert not np.asarray(module.encode(jnp.ones((1, 8, 12, 3)))).any()
        np.testing.assert_array_equal(module.decode(jnp.zeros((1, 2, 3), jnp.int32)), 1.0)
    picture = noise(1, 12, 12)
    other = picture.at[:, :4, :4].set(1.0)
    np.testing.assert_array_equal(kind.encode(picture)[:, 1:, 1:], kind.encode(other)[:, 1:, 1:])
    assert (seeing._latents(picture)[:, 1, 1] != seeing._latents(other)[:, 1, 1]).any()


def test_every_kind_drops_codes_and_comes_back_from_a_file(kind, tmp_path):
    kind = nn.rounded(kind)  # as a file holds it
    pictures = (np.asarray(noise(8, 16, 16)) * 255).astype(np.uint8)
    codes = image.encode_many(kind, pictures)
    used = np.union1d(0, codes)
    image.save(image.keep_codes(kind, used), tmp_path / "image.safetensors")
    small = image.load(tmp_path / "image.safetensors")
    assert small.config.num_codes == len(used) < kind.config.num_codes
    np.testing.assert_array_equal(used[image.encode_many(small, pictures)], codes)
    np.testing.assert_array_equal(image.decode_many(small, image.encode_many(small, pictures)),
                                  image.decode_many(kind, codes))


def test_the_grid_is_every_combination_of_levels_with_zero_first():
    expected = set(itertools.product((-1, -0.5, 0, 0.5), (-1, 0), (-1, -0.5, 0, 0.5, 1)))
    points = quantisers.grid((4, 2, 5))
    assert len(points) == 40 and {tuple(p) for p in points.tolist()} == expected and not points[0].any()


def test_the_rotation_s_gradient_is_turned_and_scaled_with_the_rounding():
    module = image.ImageTokenizer(KINDS["rotation"], nnx.Rngs(0)).quantiser
    for z in latents(5, SMALL.code_dim):
        def rounded(z):
            return module.tie(z[None])[0][0]

        book = np.asarray(module.vectors())
        jacobian, q = np.asarray(jax.jacobian(rounded)(z)), book[np.argmin(((book - np.asarray(z)) ** 2).sum(1))]
        assert np.linalg.norm(q) > 0.1
        scale = np.linalg.norm(q) / np.linalg.norm(z)
        np.testing.assert_allclose(jacobian @ jacobian.T, scale**2 * np.eye(len(z)), atol=1e-4)
        np.testing.assert_allclose(jacobian @ z, q, atol=1e-4)
        assert np.linalg.det(jacobian) > 0
        across = np.linalg.svd(np.stack([z, q]))[2][2:]  # what is in neither direction is only scaled
        np.testing.assert_allclose(across @ jacobian.T, scale * across, atol=1e-4)


def test_simvq_moves_all_codes_by_its_matrix_alone_and_fsq_learns_none():
    for name, learned in (("simvq", {"quantiser.mixing"}), ("fsq", set())):
        module = image.ImageTokenizer(KINDS[name], nnx.Rngs(0))
        gradients = jax.jit(jax.grad(lambda w: nn.with_weights(module, w).loss([noise(1, 8, 8)], None)[0]))(nn.weights(module))
        assert {n for n, g in gradients.items() if n.startswith("quantiser") and np.asarray(g).any()} == learned


def test_levels_that_are_no_grid_of_the_codes_are_refused():
    for levels, num_codes in (((8, 1), 8), ((4, 4), 17), ((), 2)):
        with pytest.raises(errors.InputError, match="levels"):
            image.ImageTokenizerConfig(quantiser="fsq", levels=levels, num_codes=num_codes)
    with pytest.raises(errors.InputError, match="set task.model.num_codes=4096, got 512"):
        task_lib.TrainImageTokenizer("", model=image.ImageTokenizerConfig(quantiser="fsq", levels=(8, 8, 8, 8)))


# Learning.


def test_the_encoder_learns_as_if_nothing_had_been_rounded():
    config = dataclasses.replace(SMALL, commitment=0.0, attraction=0.0)
    module = image.ImageTokenizer(config, nnx.Rngs(0))
    pixels = noise(2, 8, 8)
    weights = nn.weights(module)

    def error(vectors):
        return jnp.mean((module._draw(vectors) - pixels) ** 2)

    @jax.jit
    def by_hand(embed):
        def latents(embed):
            return nn.with_weights(module, weights | {"embed": embed})._latents(pixels)

        grid, back = jax.vjp(latents, embed)
        quantised = module.quantiser.vectors()[module.encode(pixels)]
        return jnp.abs(quantised - grid).max(), back(jax.grad(error)(quantised))[0]

    rounding, expected = by_hand(weights["embed"])
    assert float(rounding) > 0.1
    got = jax.jit(jax.grad(lambda w: nn.with_weights(module, w).loss([pixels], None)[0]))(weights)
    assert float(jnp.abs(expected).max()) > 1e-5
    np.testing.assert_allclose(got["embed"], expected, rtol=1e-3, atol=1e-7)
    assert not np.asarray(got["quantiser.codebook"]).any()  # without attraction nothing moves a code


def test_every_code_is_pulled_to_patches_but_white_stays():
    module = image.ImageTokenizer(SMALL, nnx.Rngs(0))
    pixels = noise(1, 8, 8)
    used = set(np.asarray(module.encode(pixels)).ravel().tolist())
    assert len(used) < SMALL.num_codes / 2
    gradients = jax.jit(jax.grad(lambda w: nn.with_weights(module, w).loss([pixels], None)[0]))(nn.weights(module))
    gradient = gradients["quantiser.codebook"]
    assert np.asarray(gradient)[1:].any(axis=1).all()
    assert not np.asarray(gradient)[0].any()


def test_a_double_of_white_is_pulled_to_a_patch_that_is_badly_represented():
    module = image.ImageTokenizer(SMALL, nnx.Rngs(0))
    weights = nn.weights(module)
    doubled = weights | {"quantiser.codebook": weights["quantiser.codebook"].at[5].set(0.0)}
    picture = on_canvas(noise(1, 4, 4), 4, 4, 16)
    latent = nn.with_weights(module, doubled)._latents(picture)[0, 1, 1]
    pull = -jax.jit(jax.grad(lambda w: nn.with_weights(module, w).loss([picture], None)[0]))(doubled)["quantiser.codebook"][5]
    cosine = float(pull @ latent / jnp.linalg.norm(pull) / jnp.linalg.norm(latent))
    assert cosine == pytest.approx(1.0, abs=1e-4)  # white itself, nearer, would have held it at zero


def test_pictures_of_two_shapes_weigh_by_their_pixels():
    loss = jax.jit(image.ImageTokenizer(SMALL, nnx.Rngs(0)).loss)
    large, small = noise(2, 16, 16), noise(2, 8, 8, seed=1)
    mean_square = [10 ** (-float(loss([p], None)[1]["psnr"]) / 10) for p in (large, small)]
    both = 10 ** (-float(loss([large, small], None)[1]["psnr"]) / 10)
    assert both == pytest.approx((4 * mean_square[0] + mean_square[1]) / 5, rel=1e-4)


def shapes_on_white(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Coloured rectangles: few distinct patches, as in drawings."""
    rng = np.random.default_rng(seed)
    pictures = np.full((count, size, size, 3), 255, np.uint8)
    for picture in pictures:
        top, left = rng.integers(0, size // 2, 2)
        height, width = rng.integers(size // 4, size // 2, 2)
        picture[top : top + height, left : left + width] = rng.integers(0, 2, 3) * 255
    return pictures


def test_a_small_batch_is_learned_by_heart():
    pixels = jnp.asarray(shapes_on_white(8, 16), jnp.float32) / 255
    module = image.ImageTokenizer(SMALL, nnx.Rngs(0))
    weights, optimizer = nn.weights(module), optax.adam(5e-3)
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state):
        gradient, metrics = jax.grad(lambda w: nn.with_weights(module, w).loss([pixels], None), has_aux=True)(weights)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(weights, updates), state, metrics["psnr"]

    for _ in range(300):
        weights, state, psnr = step(weights, state)
    assert float(psnr) > 25.0
    trained = nn.with_weights(module, weights)
    again = trained.decode(trained.encode(pixels))
    assert -10 * np.log10(float(jnp.mean((again - pixels) ** 2))) > 25.0


# Files and batches.


def test_a_saved_tokenizer_comes_back_with_weights_of_8_bits_and_then_bit_for_bit(tokenizer, tmp_path):
    image.save(tokenizer, tmp_path / "image.safetensors")
    loaded = image.load(tmp_path / "image.safetensors")
    image.save(loaded, tmp_path / "again.safetensors")
    again = image.load(tmp_path / "again.safetensors")
    assert loaded.config == again.config == tokenizer.config
    for name, weight in nn.weights(tokenizer).items():
        found = nn.weights(loaded)[name]
        np.testing.assert_allclose(found, weight, atol=max(np.abs(weight).max() / 127, 2.0**-14) * 0.501)
        np.testing.assert_array_equal(nn.weights(again)[name], found)


def test_a_missing_damaged_or_foreign_file_is_refused(tokenizer, tmp_path):
    path = tmp_path / "image.safetensors"
    with pytest.raises(errors.InputError, match="no such file"):
        image.load(path)
    image.save(tokenizer, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(errors.InputError, match="damaged"):
        image.load(path)
    files.save_arrays(path, {"x": np.zeros(3)}, {"config": json.dumps({"no_such": 1})})
    with pytest.raises(errors.InputError, match="train it again"):
        image.load(path)
    settings = {name: value for name, value in dataclasses.asdict(tokenizer.config).items() if name != "encoder_shifted"}
    files.save_arrays(path, nn.packed(tokenizer), {"config": json.dumps(settings)})
    with pytest.raises(errors.InputError, match=r"of this version \('encoder_shifted'\)"):
        image.load(path)


def test_impossible_settings_are_refused():
    with pytest.raises(errors.InputError, match="shifted"):
        image.ImageTokenizerConfig(width=64, shifted=8)
    with pytest.raises(errors.InputError, match="num_codes"):
        image.ImageTokenizerConfig(num_codes=1)


@pytest.mark.parametrize("count", [1, 3, 300])
def test_many_are_encoded_as_each_alone(tokenizer, count):
    pictures = (np.asarray(noise(count, 8, 8)) * 255).astype(np.uint8)
    codes = image.encode_many(tokenizer, pictures)
    np.testing.assert_array_equal(codes, tokenizer.encode(jnp.asarray(pictures, jnp.float32) / 255))
    drawn = image.decode_many(tokenizer, codes)
    np.testing.assert_allclose(drawn, tokenizer.decode(codes) * 255, atol=0.51)


def test_nothing_is_encoded_to_nothing(tokenizer):
    assert image.encode_many(tokenizer, np.zeros((0, 16, 8, 3), np.uint8)).shape == (0, 4, 2)


def test_dropping_unused_codes_changes_no_drawing(tokenizer):
    pictures = (np.asarray(noise(4, 16, 16)) * 255).astype(np.uint8)
    codes = image.encode_many(tokenizer, pictures)
    used = np.union1d(0, codes)
    small = image.keep_codes(tokenizer, used)
    again = image.encode_many(small, pictures)
    assert small.config.num_codes == len(used) < SMALL.num_codes
    np.testing.assert_array_equal(used[again], codes)
    np.testing.assert_array_equal(image.decode_many(small, again), image.decode_many(tokenizer, codes))


# The task.


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> str:
    """A folder laid out as data_prep/emoji_world.py does: every picture's colour tells its split."""
    folder = tmp_path_factory.mktemp("world")
    splits = ["train"] * 14 + ["valid"] * 12 + ["test_concept"] * 2
    pictures = shapes_on_white(len(splits), 32)
    pictures[26:] = 99
    frames = np.stack([shapes_on_white(6, 16, seed=s) for s in range(3)])
    frames[2] = 99
    shots = [[0, "left", 0, "train"], [1, "up", 0, "train"], [1, "left", 0, "test_motion"]]
    digits = shapes_on_white(8, 16, seed=9)
    digits[6:] = 99
    for name, array in (("pictures/pictures", pictures), ("video/frames", frames), ("digits/pictures", digits)):
        (folder / name).parent.mkdir(exist_ok=True)
        np.save(folder / f"{name}.npy", array)
    files.write_json(folder / "pictures" / "items.json", [{"split": split, "chars": f"picture {n}"} for n, split in enumerate(splits)])
    files.write_json(folder / "video" / "shots.json", shots)
    files.write_json(folder / "built.json", {"content": "abc"})
    return str(folder)


def make_task(world: str) -> task_lib.TrainImageTokenizer:
    return task_lib.TrainImageTokenizer(world, SMALL, batch_pictures=4, batch_small=4)


def test_only_train_is_learned_from(world):
    data = task_lib.read_world(world)
    assert len(data.train) == 14 and len(data.valid) == 12 and len(data.small) == 2 * 6 + 6
    for pictures in data[:3]:
        assert not (pictures == 99).any()


def test_where_there_are_films_alone_no_step_is_spent_on_a_grey_picture(world):
    task = dataclasses.replace(make_task(world), varied=0.0)
    task.__dict__["data"] = task_lib.read_world(world)._replace(train=np.full((1, 32, 32, 3), task_lib.GREY, np.uint8), has_pictures=False)
    (films,) = task.batches(10, 3)(0)
    assert films.shape == (4, 16, 16, 3)
    task.__dict__["data"] = task.data._replace(small=np.zeros((0, 16, 16, 3), np.uint8))
    (grey,) = task.batches(10, 3)(0)
    assert (grey == task_lib.GREY).all(), "a world without either has a tokenizer that writes nothing"


def test_figures_are_of_pictures_spread_over_all(world):
    rows = np.arange(100, dtype=np.uint8)
    np.testing.assert_array_equal(task_lib.spread(rows, 4), [0, 33, 66, 99])
    assert list(task_lib.spread(rows[:3], 4)) == [0, 1, 2] and not len(task_lib.spread(rows[:0], 4))


def test_a_batch_is_a_function_of_seed_and_step(world):
    batch = make_task(world).batches(10, seed=3)
    again = make_task(world).batches(10, seed=3)
    again(0)
    for one, other in zip(batch(5), again(5), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (batch(5)[0] != batch(6)[0]).any()
    assert (batch(5)[0] != make_task(world).batches(10, seed=4)(5)[0]).any()
    assert make_task(world).batch_tokens() == 4 * 64 + 4 * 16 == sum(p[..., 0].size for p in batch(0)) // 16


@pytest.mark.slow
def test_every_evaluation_shows_what_is_kept(world, tmp_path):
    task = dataclasses.replace(make_task(world), batch_pictures=8, batch_small=8)  # for 8 devices
    loop.run(task, optim.OptimConfig(lr=0.1), loop.RunConfig(str(tmp_path), steps=2, eval_every=1), {})
    shown = events.read(tmp_path)["original_and_decoded"]
    originals, decoded = (np.stack([sheet.reshape(2, 2, 32, 12 * 32, 3)[:, row] for sheet in shown.values()]) for row in (0, 1))
    assert shown.keys() == {1, 2} and (originals[0] == originals[1]).all() and (decoded[0] != decoded[1]).any()


@pytest.mark.slow
def test_the_task_evaluates_and_exports_a_codebook_without_dead_codes(world, tmp_path):
    task = make_task(world)
    module = nn.rounded(task.init(nnx.Rngs(0)))  # as it is exported
    loss, metrics = jax.jit(task.loss)(module, task.batches(1, 0)(0), None)
    assert np.isfinite(float(loss)) and np.isfinite(float(metrics["psnr"]))
    figures = task.evals(module)
    sheet = figures.pop("original_and_decoded")
    assert sheet.shape == (4 * 32, 12 * 32, 3)
    np.testing.assert_array_equal(sheet[:32, :32], task.data.valid[0])
    assert all(np.isfinite(value) for value in figures.values())
    again = image.decode_many(module, image.encode_many(module, task.data.valid))
    assert figures["valid/psnr_of_each"] == pytest.approx(np.mean([task_lib.psnr(*pair) for pair in zip(task.data.valid, again)]))
    task.export(module, tmp_path)
    exported = image.load(tmp_path / "image.safetensors")
    data = task.data
    used = {int(c) for p in (data.train, data.small) for c in image.encode_many(exported, p).ravel()}
    assert used | {0} == set(range(exported.config.num_codes))
    assert figures["codes/used"] == pytest.approx(len(used) / SMALL.num_codes)
    again = [image.decode_many(m, image.encode_many(m, data.train)) for m in (module, exported)]
    np.testing.assert_array_equal(*again)


@pytest.mark.slow
def test_sizes_between_the_trained_ones_are_drawn_as_well():
    module = image.ImageTokenizer(dataclasses.replace(SMALL, encoder_shifted=2), nnx.Rngs(0))
    weights, optimizer = nn.weights(module), optax.adam(5e-3)
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state, batch):
        gradient = jax.grad(lambda w: nn.with_weights(module, w).loss(batch, None)[0])(weights)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(weights, updates), state

    for seed in range(300):
        batch = [jnp.asarray(shapes_on_white(8, size, seed), jnp.float32) / 255 for size in (16, 32)]
        weights, state = step(weights, state, batch)
    trained = nn.with_weights(module, weights)

    def sharpness(size: int) -> float:
        pictures = shapes_on_white(64, size, seed=10_000)
        return task_lib.psnr(pictures, image.decode_many(trained, image.encode_many(trained, pictures)))

    trained_on = {size: sharpness(size) for size in (16, 32)}
    assert min(trained_on.values()) > 15
    for size in (20, 24, 28):
        line = np.interp(size, list(trained_on), list(trained_on.values()))
        assert sharpness(size) > line - 1  # dB; other pictures of the same kind differ by half as much


def test_large_pictures_are_a_third_part_of_a_batch_and_belong_to_the_world(world, tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    task = dataclasses.replace(make_task(world), large=str(folder), batch_large=2)
    with pytest.raises(errors.InputError, match="large_pictures"):
        task.data
    names = [f"picture {n}" for n in range(28)]
    files.write_json(folder / "built.json", {"key": "drawn", "inputs": {"items": names}})
    np.save(folder / "pictures.npy", np.repeat(np.arange(28, dtype=np.uint8), 64 * 64 * 3).reshape(28, 64, 64, 3))
    task = dataclasses.replace(task, varied=0.0)
    batch = task.batches(10, 3)(0)
    assert [part.shape for part in batch] == [(4, 32, 32, 3), (4, 16, 16, 3), (2, 64, 64, 3)]
    assert {int(picture[0, 0, 0]) for n in range(20) for picture in task.batches(10, 3)(n)[2]} <= set(range(14))
    assert task.batch_tokens() == 4 * 64 + 4 * 16 + 2 * 256 and task.inputs() == {"world": "abc", "large": "drawn"}
    for one, other in zip(dataclasses.replace(make_task(world), varied=0.0).batches(10, 3)(0), batch, strict=False):
        np.testing.assert_array_equal(one, other)
    files.write_json(folder / "built.json", {"key": "drawn", "inputs": {"items": [*names[:13], names[27], *names[14:27], names[13]]}})
    with pytest.raises(errors.InputError, match="must hold the 28 pictures of .*, in their order"):
        dataclasses.replace(task).data  # one that is held out would stand where one to train on does
    with pytest.raises(errors.InputError, match="batch_large"):
        dataclasses.replace(task, large="")


def test_a_collage_holds_four_pictures_of_many_sizes_on_the_grid_of_patches():
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]], np.uint8)
    pictures = np.broadcast_to(colours[:, None, None], (4, 64, 64, 3))
    sides = set()
    for seed in range(60):
        sheet = task_lib.collage(pictures, 4, np.random.default_rng(seed))
        for colour in colours:
            here = (sheet == colour).all(-1)
            rows, columns = np.flatnonzero(here.any(1)), np.flatnonzero(here.any(0))
            assert rows[0] % 4 == columns[0] % 4 == 0 and len(rows) == len(columns) and here.sum() == len(rows) ** 2
            sides.add(len(rows))
        assert ((sheet == 255).all(-1) | (sheet[..., None, :] == colours).all(-1).any(-1)).all()
    assert sides == set(range(16, 49, 4))


def test_varying_only_moves_turns_and_mirrors():
    drawing = shapes_on_white(1, 16, seed=3)[0]
    drawing[0], drawing[:, 0] = 255, 255  # a white margin of a patch on each side of what is left
    drawing[-4:], drawing[:, -4:], drawing[:4], drawing[:, :4] = 255, 255, 255, 255
    drawing[5, 6], drawing[6, 6], drawing[5, 7] = (1, 2, 3), (4, 5, 6), (7, 8, 9)
    varied = [task_lib.vary(drawing, 4, way) for way in range(task_lib.num_ways(4))]
    assert len({v.tobytes() for v in varied}) == 8 * 16 and (varied[0] == drawing).all()
    assert all((task_lib.unvary(picture, 4, way) == drawing).all() for way, picture in enumerate(varied))
    places = set()
    for picture in varied:
        assert sorted(picture.reshape(-1, 3).tolist()) == sorted(drawing.reshape(-1, 3).tolist())
        places |= {tuple(place) for place in np.argwhere((picture == (1, 2, 3)).all(-1))}
    corners = {(y, x) for y in (5, 10) for x in (6, 9)} | {(x, y) for y in (5, 10) for x in (6, 9)}
    assert places <= {(y + down, x + right) for y, x in corners for down in range(4) for right in range(4)}


def test_an_unfinished_world_is_refused(tmp_path):
    with pytest.raises(errors.InputError, match="emoji_world"):
        task_lib.read_world(tmp_path)


def test_figures_against_worked_examples():
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert task_lib.entropy_bits(np.array([2, 1, 0, 1])) == pytest.approx(1.5)
    given, codes = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 2, 2], np.int32)
    assert task_lib.conditional_bits(given, codes) == pytest.approx(0.5)  # 1 bit after 0, none after 1
    pictures = np.concatenate([black, white])
    assert task_lib.recognised(pictures, pictures) == 1.0
    assert task_lib.recognised(pictures, np.concatenate([black + 200, white])) == 0.5


# Picture files.


def png(path, array: np.ndarray, **options):
    Image.fromarray(array).save(path, **options)
    return path


def quarters(size: int = 32) -> np.ndarray:
    """Red, green / blue, black: every flip and turn is visible."""
    picture = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    picture[:half, :half], picture[:half, half:], picture[half:, :half] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return picture


def test_a_picture_of_the_right_size_is_read_as_it_is_written(tmp_path):
    image_io.write_png(tmp_path / "a.png", quarters())
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "a.png"), quarters())


@pytest.mark.parametrize(("width", "height", "expected"), [
    (64, 64, (32, 32)), (100, 50, (16, 32)), (50, 100, (32, 16)), (300, 10, (4, 32)), (10, 9, (28, 32)), (1, 1, (32, 32))])
def test_the_longer_side_becomes_size_and_both_are_multiples(tmp_path, width, height, expected):
    path = png(tmp_path / "a.png", np.zeros((height, width, 3), np.uint8))
    assert image_io.read_image(path).shape == (*expected, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_s_rotation_is_undone(tmp_path, orientation):
    upright = quarters(64)[:48]  # landscape
    turned = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1),
              8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif"):
        Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / name, exif=exif)
        np.testing.assert_array_equal(image_io.read_image(tmp_path / name, size=64), upright)


def test_transparent_is_white(tmp_path):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:16] = (255, 0, 0, 128)
    picture = image_io.read_image(png(tmp_path / "a.png", rgba))
    assert picture[0, 0].tolist() == [255, 127, 127] and picture[-1, 0].tolist() == [255, 255, 255]
    palette = Image.fromarray(quarters()).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    picture = image_io.read_image(tmp_path / "p.png")
    assert picture[0, 0].tolist() == [255, 255, 255] and picture[0, -1].tolist() == [0, 255, 0]


def test_every_kind_of_pixel_is_read(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    expected = np.round(ramp.astype(np.uint16) / 257).astype(np.uint8)
    picture = image_io.read_image(png(tmp_path / "16.png", ramp.astype(np.uint16)))
    np.testing.assert_array_equal(picture, np.repeat(expected[..., None], 3, axis=-1))
    picture = image_io.read_image(png(tmp_path / "f.tiff", (ramp / 1000 - 20).astype(np.float32)))
    assert np.abs(picture[..., 0].astype(int) - expected).max() <= 1
    Image.fromarray(quarters()).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    assert np.abs(image_io.read_image(tmp_path / "c.jpg").astype(int) - quarters()).mean() < 15
    for mode in ("L", "1", "LA", "P"):
        Image.fromarray(quarters()).convert(mode).save(tmp_path / "m.png")
        assert image_io.read_image(tmp_path / "m.png").shape == (32, 32, 3)
    for name in ("a.webp", "a.gif", "a.bmp"):
        Image.fromarray(quarters()).save(tmp_path / name)
        assert image_io.read_image(tmp_path / name)[1, 1].tolist()[0] > 200


def test_bad_picture_files_are_named(tmp_path):
    good = png(tmp_path / "good.png", (np.asarray(noise(64, 64)) * 255).astype(np.uint8)).read_bytes()
    cases = {"empty.png": b"", "text.png": b"hello", "short.png": good[: len(good) // 2], "header.png": good[:20]}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(errors.InputError, match=name):
            image_io.read_image(tmp_path / name)
    with pytest.raises(errors.InputError, match="no such"):
        image_io.read_image(tmp_path / "missing.png")
    with pytest.raises(errors.InputError, match="multiple"):
        image_io.read_image(tmp_path / "good.png", size=30)


@pytest.mark.parametrize("side", [7000, 12_000, 20_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, side, monkeypatch):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(errors.InputError, match="at most 40 megapixels.*scale"):
        image_io.read_image(tmp_path / "huge.png")


# Clips.


def test_frames_are_equally_spaced():
    assert image_io.equally_spaced(6, 6) == [0, 1, 2, 3, 4, 5]
    assert image_io.equally_spaced(6, 11) == [0, 2, 4, 6, 8, 10]
    assert image_io.equally_spaced(3, 4) == [0, 2, 3]  # 1.5 is rounded up
    assert image_io.equally_spaced(1, 5) == [2]
    assert image_io.equally_spaced(16, 3) == [0, 1, 2]
    for num_frames in range(2, 20):
        for total in range(num_frames, 200):
            index = image_io.equally_spaced(num_frames, total)
            exact = [i * (total - 1) / (num_frames - 1) for i in range(num_frames)]
            assert len(index) == num_frames and index[0] == 0 and index[-1] == total - 1
            assert all(-0.5 < i - e <= 0.5 + 1e-9 for i, e in zip(index, exact, strict=True))
    with pytest.raises(ValueError, match="at least 1"):
        image_io.equally_spaced(3, 0)


def grey_frames(count: int, width: int = 32, height: int = 32) -> list[Image.Image]:
    return [Image.new("RGB", (width, height), (20 * i,) * 3) for i in range(count)]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_is_read_with_its_times(tmp_path, name):
    durations = [100, 200, 300, 400, 500, 600, 700]
    options = {"lossless": True} if name.endswith("webp") else {}
    first, *rest = grey_frames(7)
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=durations, **options)
    frames, seconds = image_io.read_video(tmp_path / name, num_frames=4, size=16)
    assert frames.shape == (4, 16, 16, 3) and frames.dtype == np.uint8
    assert frames[:, 8, 8, 0].tolist() == [0, 40, 80, 120]
    np.testing.assert_allclose(seconds, [0.0, 0.3, 1.0, 2.1], atol=1e-6)


def test_a_folder_of_pictures_is_one_a_second(tmp_path):
    for i, frame in enumerate(grey_frames(9, width=64, height=32)):
        frame.save(tmp_path / f"{i:03d}.png")
    for name in (".hidden", "Thumbs.db", "0.txt"):
        (tmp_path / name).write_text("not a frame")
    frames, seconds = image_io.read_video(tmp_path, num_frames=3)
    assert frames.shape == (3, 8, 16, 3) and frames[:, 0, 0, 0].tolist() == [0, 80, 160]
    assert seconds.tolist() == [0.0, 4.0, 8.0] and seconds.dtype == np.float32


def test_a_still_picture_is_a_clip_of_one_frame(tmp_path):
    frames, seconds = image_io.read_video(png(tmp_path / "a.png", quarters()), size=32)
    np.testing.assert_array_equal(frames[0], quarters())
    assert seconds.tolist() == [0.0]


def test_bad_clips_are_named(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(errors.InputError, match="but holds none"):
        image_io.read_video(tmp_path / "none")
    (tmp_path / "two").mkdir()
    grey_frames(1)[0].save(tmp_path / "two" / "a.png")
    grey_frames(1, width=16)[0].save(tmp_path / "two" / "b.png")
    with pytest.raises(errors.InputError, match="b.png.*16×32"):
        image_io.read_video(tmp_path / "two")
    (tmp_path / "movie.mp4").write_bytes(b"\0\0\0 ftypisom" + b"\0" * 99)
    with pytest.raises(errors.InputError, match="movie.mp4"):
        image_io.read_video(tmp_path / "movie.mp4")
    first, *rest = [Image.fromarray((np.asarray(noise(32, 32, seed=i)) * 255).astype(np.uint8)) for i in range(5)]
    first.save(tmp_path / "cut.gif", save_all=True, append_images=rest)
    data = (tmp_path / "cut.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) // 2])
    with pytest.raises(errors.InputError, match="cut.gif"):
        image_io.read_video(tmp_path / "cut.gif")


def test_an_animation_of_more_pixels_than_are_read_is_refused_before_any_is_decoded(tmp_path, monkeypatch):
    """A small file may hold many large frames: flat ones take a few bytes each, and seconds."""
    first, *rest = grey_frames(5, width=16)
    first.save(tmp_path / "many.gif", save_all=True, append_images=rest)
    size = first.width * first.height
    monkeypatch.setattr(image_io, "MAX_CLIP_PIXELS", 5 * size)
    assert len(image_io.read_video(tmp_path / "many.gif", num_frames=5)[0]) == 5
    monkeypatch.setattr(image_io, "MAX_CLIP_PIXELS", 5 * size - 1)
    monkeypatch.setattr(image_io, "_pixels", None)
    with pytest.raises(errors.InputError, match=f"many.gif: has 5 frames of {first.width}×{first.height} pixels; at most"):
        image_io.read_video(tmp_path / "many.gif")


def test_writing_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image_io.write_png(path, quarters())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="a.png"):
        image_io.write_png(path, quarters()[::-1].copy())
    monkeypatch.undo()
    np.testing.assert_array_equal(image_io.read_image(path), quarters())
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
