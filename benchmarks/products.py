"""How fast this machine multiplies matrices: what a measured time is set beside."""

import time

import jax
import numpy as np


def seconds(flops: float) -> float:
    """Time for so many operations at the speed of one large product in float32, best of three."""
    square, spent = np.ones((2048, 2048), np.float32), []
    product = jax.jit(lambda a: a @ a)
    product(square).block_until_ready()
    for _ in range(3):
        begin = time.perf_counter()
        product(square).block_until_ready()
        spent.append(time.perf_counter() - begin)
    return flops / (2 * 2048**3) * min(spent)
