"""Other packages that compute the recurrence, each timed where it is installed.

| name | what runs | source |
|---|---|---|
| flax RNN | `flax.linen.RNN` over a diagonal linear cell | a `lax.scan` inside |
| torch associative_scan | `torch._higher_order_ops.associative_scan`, generic, eager | a tree |
| accelerated_scan.ref | its reference in torch; its kernels need a GPU | a Blelloch tree |
| mambapy pscan | `mambapy.pscan.pscan`, with its own backward pass | a Blelloch tree in place |

Those of torch run on the device of JAX, a GPU where it has one, and are done when they return.
Each is given a and b in the layout that it wants and gives h in it: this costs them nothing. A
decay that is constant in time they spell out themselves, except flax's cell, where it is a
parameter. All are timed for real numbers; those of torch differentiate complex ones by another
convention.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import packages
from experiments.harness.packages import TORCH, Packages
from experiments.harness.race import with_gradients
from experiments.harness.timing import Check, Contender
from experiments.scan_limits.contenders import Task
from experiments.scan_limits.shapes import BOTH, FORWARD, Shape


@dataclass(frozen=True)
class Peer:
    """One other package.

    Args:
      name: of the contender.
      packages: distributions and the modules they bring; all have to be there.
      contender: makes it, for a task and a direction.
      arrays: how many of b's size it holds at its peak, forward and with the backward pass.
      squares: with the backward pass also one number for each pair of steps of a lane.
    """

    name: str
    packages: Packages
    contender: Callable[[Task, str], Contender]
    arrays: tuple[int, int]
    squares: bool = False

    @property
    def why_not(self) -> str:
        """`torch is not installed`; empty where it can be timed here."""
        return packages.why_not(self.packages)

    @property
    def version(self) -> str:
        """`torch 2.9.0`; empty where something is missing."""
        return "" if self.why_not else packages.versions(self.packages)

    def tried(self, task: Task, direction: str) -> Contender | str:
        """The contender, or what went wrong."""
        return packages.tried(functools.partial(self.contender, task, direction))

    def predicted_bytes(self, shape: Shape, direction: str) -> int:
        held = self.arrays[direction == BOTH] * shape.nbytes
        pairs = shape.length**2 * shape.lanes * 4 if self.squares and direction == BOTH else 0
        return held + pairs


def of(shape: Shape) -> tuple[Peer, ...]:
    """The peers that compute this shape, whether or not they are installed."""
    return PEERS if shape.dtype == "float32" else ()


def _flax(task: Task, direction: str) -> Contender:
    """A cell h = a h + b in flax's RNN: a and b come side by side in one input, as it wants."""
    from flax import linen  # pyright: ignore[reportMissingImports]

    constant = task.shape.decay == "constant"
    inner = task.shape.inner

    class Cell(linen.RNNCellBase):  # pyright: ignore[reportUntypedBaseClass]
        @linen.compact
        def __call__(self, h: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
            if constant:
                h = self.param("a", linen.initializers.ones, (inner,))[None, :] * h + now
            else:
                h = now[..., :inner] * h + now[..., inner:]
            return h, h

        def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> jax.Array:
            return jnp.zeros((*input_shape[:-1], inner))

        @property
        def num_feature_axes(self) -> int:
            return 1

    rnn = linen.RNN(Cell())

    def forward(parameters: Any, x: jax.Array) -> jax.Array:
        return rnn.apply(parameters, x)  # pyright: ignore[reportReturnType]

    a, b, g = task.arguments
    if constant:
        parameters, x = {"params": {"cell": {"a": a}}}, b
    else:
        parameters, x = {}, jnp.concatenate([a, b], axis=-1)

    def check(output: Any) -> Check:
        if direction == FORWARD:
            return task.check(output)
        h, dparameters, dx = output
        if constant:
            return task.check((h, dparameters["params"]["cell"]["a"], dx))
        return task.check((h, dx[..., :inner], dx[..., inner:]))

    if direction == FORWARD:
        return Contender("flax RNN", forward, (parameters, x), check)
    return Contender("flax RNN", with_gradients(forward), (parameters, x, g), check)


def _in_torch(
    name: str,
    scan: Callable[[Any, Any], Any],
    into: Callable[[np.ndarray], np.ndarray],
    back: Callable[[np.ndarray], np.ndarray],
    task: Task,
    direction: str,
) -> Contender:
    """A scan of tensors (a, b) in a layout of its own; `into` it and `back` cost nothing."""
    torch = packages.torch()
    constant = task.shape.decay == "constant"

    def tensor(x: np.ndarray) -> Any:
        return packages.tensor(into(x))

    # One row and one step, which broadcast.
    a = tensor(task.a[None, None, :] if constant else task.a)
    b, g = tensor(task.b), tensor(task.g)

    def forward(a: Any, b: Any) -> Any:
        return scan(a.expand(b.shape).contiguous() if constant else a, b)

    def both(a: Any, b: Any, g: Any) -> Any:
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        h = forward(a, b)
        return h.detach(), *torch.autograd.grad(h, (a, b), g)

    def check(output: Any) -> Check:
        outputs = output if isinstance(output, tuple) else (output,)
        h, *gradients = (back(packages.array(found)) for found in outputs)
        if not gradients:
            return task.check(h)
        da, db = gradients
        return task.check((h, da.reshape(task.a.shape), db))

    if direction == FORWARD:
        return Contender(name, packages.finished(forward), (a, b), check, eager=True)
    return Contender(name, packages.finished(both), (a, b, g), check, eager=True)


def _torch_associative_scan(task: Task, direction: str) -> Contender:
    packages.torch()
    module = importlib.import_module("torch._higher_order_ops.associative_scan")

    def compose(earlier: Any, later: Any) -> Any:
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    def scan(a: Any, b: Any) -> Any:
        return module.associative_scan(compose, (a, b), dim=1, combine_mode="generic")[1]

    return _in_torch("torch associative_scan", scan, np.asarray, np.asarray, task, direction)


def _accelerated_scan(task: Task, direction: str) -> Contender:
    """Batch, lanes, time."""
    packages.torch()
    module = importlib.import_module("accelerated_scan.ref")
    swap = functools.partial(np.swapaxes, axis1=1, axis2=2)
    return _in_torch("accelerated_scan.ref", module.scan, swap, swap, task, direction)


def _mambapy(task: Task, direction: str) -> Contender:
    """Batch, time, channels, states: the lanes as states of one channel, the faster of two ways."""
    packages.torch()
    module = importlib.import_module("mambapy.pscan")

    def into(x: np.ndarray) -> np.ndarray:
        return x[:, :, None, :]

    def back(x: np.ndarray) -> np.ndarray:
        return x[:, :, 0, :]

    return _in_torch("mambapy pscan", module.pscan, into, back, task, direction)


PEERS = (
    Peer("flax RNN", (("flax", "flax"),), _flax, (8, 20)),
    Peer("torch associative_scan", (TORCH,), _torch_associative_scan, (8, 12), squares=True),
    Peer(
        "accelerated_scan.ref",
        (("accelerated-scan", "accelerated_scan"), TORCH),
        _accelerated_scan,
        (10, 40),
    ),
    Peer("mambapy pscan", (("mambapy", "mambapy"), TORCH), _mambapy, (6, 12)),
)
