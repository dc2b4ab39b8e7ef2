"""Checkpoints of several processes: all continue from the same one, also where only one of them finds it damaged."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemini_mini.train import checkpoint
from tests import processes


def state_of(value: float):
    """A matrix cut over all devices, and a number that every one has."""
    mesh = jax.make_mesh((len(jax.devices()),), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    place = lambda x, *cut: jax.make_array_from_callback(x.shape, jax.NamedSharding(mesh, jax.P(*cut)), x.__getitem__)
    rows = np.random.default_rng(0).normal(size=(8, 4096)).astype(np.float32)
    return {"w": place(rows + np.float32(value), "fsdp"), "n": place(np.int32(value))}


def save_twice(folder: str) -> None:
    with checkpoint.Saver(Path(folder), checkpoint.Keep(3)) as saver:
        for step in (1, 2):
            saver.save(step, state_of(step))


def restore_and_save(folder: str) -> list:
    """What this process restored: the step, whether it is the state of that step, and the steps after saving a third."""
    step, state = checkpoint.restore(Path(folder), state_of(0.0))
    wanted = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), state, state_of(step))
    with checkpoint.Saver(Path(folder), checkpoint.Keep(3)) as saver:
        saver.save(3, state)
    return [step, all(wanted.values()), 3 in checkpoint.steps(Path(folder)) or jax.process_index() > 0]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [0, 1])
def test_all_continue_from_the_newest_checkpoint_that_is_intact_for_all(damaged, tmp_path):
    folder = tmp_path / "checkpoints"
    processes.together(2, "test_checkpoint.save_twice", [str(folder)], tmp_path)
    largest = max((folder / "00000002").rglob(f"ocdbt.process_{damaged}/d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])  # only the rows of one process
    assert processes.together(2, "test_checkpoint.restore_and_save", [str(folder)], tmp_path) == [[1, True, True]] * 2
