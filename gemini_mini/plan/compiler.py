"""The real training step, compiled for chips that are not there.

State and batch are shapes with shardings; the step is the one the loop runs. The compiler's refusal to
fit a program into a chip's memory is the only verdict that counts, and comes within seconds.
Next: hlo.py, which reads the program.
"""

import dataclasses
import math
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from gemini_mini import config as config_lib, errors, nn, parallel, vocab as vocabulary
from gemini_mini.data import packing
from gemini_mini.plan import hlo
from gemini_mini.tasks import pretrain
from gemini_mini.train import optim, step as step_lib


@dataclass(frozen=True)
class Unread(pretrain.Pretrain):
    """Pretraining whose rows and tokenizers need not exist: rows are full, ids as many as the config says."""

    @property
    def vocab(self) -> vocabulary.Vocab:
        return vocabulary.Vocab(self.model.vocab_size - vocabulary.NUM_CONTROL - 2, 1, 1, "planned")


class Compiled(NamedTuple):
    """A step that fits: its text, and bytes a chip by kind."""

    text: str
    seconds: float
    memory: dict[str, int]


class DoesNotFit(Exception):
    """The compiler's refusal: memory needed and there a chip, as it prints them, and the largest arrays as of hlo.largest."""

    def __init__(self, message: str, arrays: list[tuple[int, int, str]]):
        found = re.search(r"\(([\d.]+\w)\) exceeds[^(]*\(([\d.]+\w)\)", message)
        self.needed, self.there = found.groups() if found else ("more", "what is there")
        self.arrays = arrays
        super().__init__(message)


def unread(experiment: config_lib.Experiment) -> config_lib.Experiment:
    """The experiment with a task that reads nothing. Raises: InputError for what cannot be planned."""
    task = experiment.task
    if not isinstance(task, pretrain.Pretrain):
        raise errors.InputError(f"--plan: only the decoder's pretraining has a plan, got {type(task).__name__}")
    if task.model.vocab_size < vocabulary.NUM_CONTROL + 3:
        raise errors.InputError("--plan: needs the number of ids, such as task.model.vocab_size=40960, because the "
                                f"tokenizers may not exist yet; got {task.model.vocab_size}")
    fields = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    return dataclasses.replace(experiment, task=Unread(**fields))


def compile_step(experiment: config_lib.Experiment, devices: Mesh) -> Compiled:
    """Compile one step of an `unread` experiment. Raises: DoesNotFit, InputError for an impossible mesh."""
    task, began = experiment.task, time.perf_counter()
    shape = (task.batch_rows, task.model.context_tokens)
    context = devices.shape["context"]
    parts = [devices.shape["data"] * devices.shape["fsdp"], 2 * context if context > 1 else 1]  # the ring gives each device two pieces of a row
    if any(size % n for size, n in zip(shape, parts, strict=True)):
        raise errors.InputError(f"run.mesh: {shape[0]} rows of {shape[1]} ids must divide by {parts[0]} and {parts[1]}; "
                                "choose another run.mesh or task.batch_rows")
    make = lambda: task.init(nnx.Rngs(0))
    module = jax.eval_shape(make)
    axes = nn.axes(module)
    optimizer = optim.make(experiment.optim, axes, experiment.run.steps)
    state = jax.eval_shape(lambda: step_lib.init(make(), optimizer))
    places = parallel.shardings(state, axes, devices)
    state = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, places)
    dtypes = packing.Batch(*[jnp.int32] * 6)._replace(has_target=jnp.float32)
    batch = jax.tree.map(lambda t: jax.ShapeDtypeStruct(shape, t, sharding=NamedSharding(devices, parallel.ROWS)), dtypes)
    step = step_lib.make(module, task.loss, optimizer, 0, experiment.optim.explode, experiment.optim.clip)
    lowered = parallel.compile_step(step, places, devices).lower(state, batch)
    with tempfile.TemporaryDirectory() as folder:
        try:
            compiled = lowered.compile({"xla_dump_to": folder})
        except jax.errors.JaxRuntimeError as error:
            if found := re.search(r"memory space vmem. (Used \S+ of \S+)", str(error)):
                raise errors.InputError(f"--plan: a kernel does not fit a chip's fast memory ({found[1]}); choose smaller blocks in "
                                        "Splash.on of gemini_mini/model/splash.py") from None
            if "RESOURCE_EXHAUSTED" in str(error):
                raise DoesNotFit(str(error), hlo.largest(_refused(Path(folder)))) from None
            raise
    analysis = compiled.memory_analysis()
    memory = {"weights": _bytes(state.weights), "optimizer": _bytes(state.opt_state), "batch": _bytes(batch),
              "temporaries": analysis.temp_size_in_bytes, "peak": analysis.peak_memory_in_bytes}
    return Compiled(compiled.as_text(), time.perf_counter() - began, memory)


def _refused(folder: Path) -> str:
    """The program of one chip that did not fit: the compiler leaves it where it is told to, and only then says no."""
    return max((path.read_text() for path in folder.glob("*after_optimizations.txt")), key=len, default="")


def _bytes(tree) -> int:
    """Of one chip's pieces."""
    return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree))
