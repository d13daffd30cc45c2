"""Recurrent layers against `torch.nn` on the same machine, in the same run, on the same work.

torch has as many threads as the machine has cores; its forward pass runs under `inference_mode`.
Both sides start from the same weights, and the results of each are checked against the other's. The
backward pass gives the gradients of every weight and of the input.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.race import BOTH, FORWARD
from experiments.harness.timing import Check, Contender
from experiments.torch_example.reference import LAYERS

OURS, TORCH = "rnnscan", "torch"


def contenders(layer: str, shape: tuple[int, int, int, int], direction: str) -> list[Contender]:
    """Both, for (T, B, inputs, hidden)."""
    import torch  # pyright: ignore[reportMissingImports]

    steps, batch, inputs, hidden = shape
    torch.set_num_threads(os.cpu_count() or 1)
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((batch, steps, n), np.float32) for n in (inputs, hidden))
    torch.manual_seed(0)
    module = getattr(torch.nn, layer)(inputs, hidden, batch_first=True)
    names = [name for name, _ in module.named_parameters()]
    weights = {name: value.detach().numpy() for name, value in module.named_parameters()}
    ours = LAYERS[layer].from_torch(weights)
    x_there = torch.from_numpy(x).requires_grad_(direction == BOTH)
    g_there = torch.from_numpy(g)

    def there() -> Any:
        if direction == FORWARD:
            with torch.inference_mode():
                return (module(x_there)[0],)
        y = module(x_there)[0]
        leaves = (*module.parameters(), x_there)
        return y, *torch.autograd.grad(y, leaves, g_there)

    def forward(made: Any, x: jax.Array) -> jax.Array:
        return made(x)[0]

    def here(made: Any, x: jax.Array, *g: jax.Array) -> Any:
        if direction == FORWARD:
            return (forward(made, x),)
        y, pull_back = jax.vjp(forward, made, x)
        of_layer, of_x = pull_back(*g)
        (cell,) = of_layer.cells[0]
        by_name = dict(zip(names, (cell.w_ih, cell.w_hh, cell.b_ih, cell.b_hh), strict=True))
        return y, *by_name.values(), of_x

    expected = [part.detach().numpy() for part in there()]
    check = functools.partial(_check, expected=expected, terms=steps * batch)
    arguments = (ours, x, *([g] if direction == BOTH else []))
    return [
        Contender(OURS, here, arguments, check),
        Contender(TORCH, there, (), check, eager=True),
    ]


def _check(output: Any, expected: list[np.ndarray], terms: int) -> Check:
    """The largest relative error in the 2-norm; both sides round a sum of `terms` for a weight."""
    errors = []
    for found, wanted in zip(output, expected, strict=True):
        found = np.asarray(found.detach().numpy() if hasattr(found, "detach") else found)
        errors.append(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    worst = float(np.max(errors))  # keeps a nan
    return Check(worst, 1e-6 + 2.0**-23 * terms**0.5, f"the other's result, {jnp.float32.__name__}")


def flops(layer: str, shape: tuple[int, int, int, int], direction: str) -> int:
    """Of the products with W_ih and W_hh; the backward pass has twice as many."""
    steps, batch, inputs, hidden = shape
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[layer]
    return 2 * steps * batch * gates * hidden * (inputs + hidden) * (3 if direction == BOTH else 1)
