"""From a task and its settings to what trains it: the same for a run, its replay and its copies."""

import os
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from gemini_mini import errors, matmul, nn, parallel
from gemini_mini.train import optim, step as step_lib

# Of XLA_FLAGS: where to write what it does, and a number of devices that the mesh says too.
SAME_NUMBERS = ("--xla_dump", "--xla_force_host_platform_device_count")


class Built(NamedTuple):
    """A run of so many steps that can start anywhere."""

    module: nnx.Module
    fresh: Callable[[], step_lib.TrainState]  # the state before step 0, placed on its devices
    step: Callable  # (state, batch) -> (state, metrics); takes the state's memory
    batch: Callable[[int], Any]
    how: dict[str, Any]  # what decides the roundings of a step, as JSON values


def build(task: Any, optim_config: optim.OptimConfig, run: Any, steps: int, like: Built | None = None) -> Built:
    """A run of `steps` steps of a loop.Task, schedule, mixture and all, as a loop.RunConfig says. Nothing is compiled before the first step.

    The step is that of `like`, the same run at another length, if given: its program reads the length from the state.

    Raises: InputError when the mesh does not suit the devices, or products of `run.products` cannot be made here.
    """
    devices = parallel.mesh(run.mesh)
    if run.products != "xla" and devices.size > 1:
        raise errors.InputError(f"run.products: must be xla on a mesh of {devices.size} devices, got {run.products}; "
                                "leave it at xla, or set run.mesh=(1,1,1,1)")
    products = matmul.use(run.products)
    make, is_alone = lambda: task.init(nnx.Rngs(run.seed)), devices.size == 1
    module = make() if is_alone else jax.eval_shape(make)
    axes = nn.axes(module)
    optimizer = optim.make(optim_config, axes, steps)
    init = lambda: step_lib.init(module if is_alone else make(), optimizer)
    places = parallel.shardings(jax.eval_shape(init), axes, devices)
    # Of many devices each makes only its own pieces: the whole may fit on none.
    fresh = (lambda: jax.device_put(init(), places)) if is_alone else jax.jit(init, out_shardings=places)
    step = like.step if like else parallel.compile_step(
        step_lib.make(module, task.loss, optimizer, run.seed, optim_config.explode, optim_config.clip), places, devices)
    batches = task.batches(steps, run.seed)
    how = {"mesh": list(devices.shape.values()), "processes": jax.process_count(), **_machine(devices.devices.flat[0]),
           "products": products, "jax": jax.__version__,
           "xla_flags": [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(SAME_NUMBERS)]}
    return Built(module, fresh, step, lambda n: parallel.shard_rows(batches, n, devices), how)


def _machine(device: jax.Device) -> dict[str, str | int]:
    """What computes: every CPU is "cpu" to JAX, which makes programs for the model there is and adds in as many parts as there are CPUs."""
    if device.platform != "cpu":
        return {"devices": device.device_kind}
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in matmul.cpu_info().splitlines())}
    # In a virtual machine the name may be that of a whole line of CPUs.
    model = [facts[name] for name in ("model name", "cpu family", "model") if name in facts]
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"devices": device.device_kind, "cpu": " / ".join(model) or platform.processor(), "cpus": count}
