"""`sequential`: the definition, one step after another. Work T B channels N, span T."""

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.selective_method import SelectiveProblem
from rnnscan.scan.selective_methods import chunks
from rnnscan.scan.selective_methods.chunks import Constants, Steps
from rnnscan.scan.selective_methods.step import coefficients, read, times
from rnnscan.scan.time_axis import keep


def _evaluate(
    problem: SelectiveProblem, constants: Constants, state: jax.Array, steps: Steps
) -> tuple[jax.Array, jax.Array, jax.Array]:
    lead = steps.x.ndim - 2  # where time is

    def step(h, at):
        reset = None if at.reset is None else at.reset[..., None, None]
        delta = times(problem, at.delta, constants.bias)
        decay, drive = coefficients(problem, constants.a, at.x, delta, at.b, reset)
        h = keep(reset, decay) * keep(reset, h) + drive
        return h, read(problem, h, at.c, constants.d, at.x)

    over_time = jax.tree.map(lambda x: jnp.moveaxis(x, lead, 0), steps)
    last, y = lax.scan(step, state, over_time)
    return last, jnp.moveaxis(y, 0, lead), state[None]


method = chunks.method(
    "sequential", "the definition: one step after another, every dtype and platform", _evaluate
)
