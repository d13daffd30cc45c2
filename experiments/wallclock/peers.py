"""Recurrent layers of other packages beside ours: the same weights, the same x, the same judge.

| name | of | what runs |
|---|---|---|
| torch nn.RNN, nn.LSTM, nn.GRU | RNN, LSTM, GRU | on a GPU cuDNN's, float32 without TF32 |
| jax.experimental.rnn | LSTM | cuDNN's by JAX, float32 (`precision=HIGHEST`); GPUs alone |
| jax-linear-attention | SelectiveSSM | its Mamba-1 kernel; Hopper alone, widths of 128, 256, ... |

Each is called from Python, as its users call it; those of torch are done when they return. Inputs
and weights are on the device beforehand. The last has not run on a card with these numbers: its
exponentials are approximate, and the check says whether that is near enough.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import rnn

from experiments.harness import packages
from experiments.harness.packages import TORCH, Packages
from experiments.harness.race import with_gradients
from experiments.harness.timing import Check, Contender
from experiments.wallclock.contenders import BOTH, Task, check, judged
from experiments.wallclock.reference import parameters


@dataclass(frozen=True)
class Peer:
    """One layer of another package.

    Args:
      name: of the contender.
      kind: of our layer that computes the same.
      packages: that have to be there.
      contender: makes it, for a task and a direction.
      gpu: it runs on GPUs alone.
    """

    name: str
    kind: str
    packages: Packages
    contender: Callable[[str, Task, str], Contender]
    gpu: bool = False

    @property
    def why_not(self) -> str:
        """Empty where it can be timed here."""
        if self.gpu and jax.default_backend() != "gpu":
            return "it is for GPUs, and JAX sees none"
        return packages.why_not(self.packages)

    @property
    def version(self) -> str:
        return packages.versions(self.packages) or f"jax {jax.__version__}"


def of(task: Task, direction: str) -> Iterator[tuple[Peer, Contender | str]]:
    """The peers of a layer: each as a contender, or why there is none."""
    for peer in PEERS:
        if peer.kind == task.config.kind:
            name = f"{task.config.name}, {peer.name}"
            make = functools.partial(peer.contender, name, task, direction)
            yield peer, peer.why_not or packages.tried(make)


def _torch(name: str, task: Task, direction: str) -> Contender:
    """The module of `torch.nn` that is called as our layer is, of one layer."""
    torch, backward = packages.torch(), direction == BOTH
    weights = parameters(task.layer)
    names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0"}
    names |= {"b_ih": "bias_ih_l0", "b_hh": "bias_hh_l0"}
    sizes = task.layer.input_size, task.layer.hidden_size
    module = getattr(torch.nn, task.config.kind)(*sizes, batch_first=True)
    module.load_state_dict({names[key]: packages.tensor(w) for key, w in weights.items()})
    module = module.to(packages.device()).train(backward)
    parameter = dict(module.named_parameters())

    def forward(x: Any) -> Any:
        with torch.no_grad():
            return module(x)[0]

    def both(x: Any, g: Any) -> tuple[Any, ...]:
        x = x.detach().requires_grad_()
        y = module(x)[0]
        return y.detach(), *torch.autograd.grad(y, (x, *map(parameter.get, names.values())), g)

    def judge(output: Any) -> Check:
        outputs = output if backward else (output,)
        found = map(packages.array, outputs)
        return judged(dict(zip(("y", "x", *names), found, strict=backward)), task)

    tensors = tuple(map(packages.tensor, (task.x, task.g) if backward else (task.x,)))
    function = packages.finished(both if backward else forward)
    return Contender(name, function, tensors, judge, eager=True)


def _by_jax(
    forward: Callable[[Any, jax.Array], jax.Array], name: str, task: Task, direction: str
) -> Contender:
    """A function of our layer and x that JAX differentiates, compiled beforehand."""
    arguments = (task.layer, task.x) + ((task.g,) if direction == BOTH else ())
    arguments = jax.block_until_ready(jax.device_put(arguments))
    function = with_gradients(forward) if direction == BOTH else forward
    compiled = jax.jit(function).lower(*arguments).compile()
    return Contender(name, compiled, arguments, functools.partial(check, task=task), eager=True)


def jax_lstm(layer: Any, x: jax.Array) -> jax.Array:
    """cuDNN's LSTM; it wants all matrices in one line, then all biases."""
    weights = parameters(layer)
    line = jnp.concatenate([weights[key].ravel() for key in ("w_ih", "w_hh", "b_ih", "b_hh")])
    batch, length, features = x.shape
    state = jnp.zeros((1, batch, layer.hidden_size), x.dtype)
    lengths = jnp.full(batch, length, np.int32)
    sizes = features, layer.hidden_size, 1  # of one layer
    options = 0.0, False, lax.Precision.HIGHEST  # no dropout, one direction
    outputs: Any = rnn.lstm(x, state, state, line, lengths, *sizes, *options)
    return outputs[0]


def jla_mamba(layer: Any, x: jax.Array) -> jax.Array:
    """The scan of `jla` 0.1 between our products; its q, k and v are C, B and x."""
    scan = importlib.import_module("jla.ops.mosaic_gpu.mamba1").mamba1
    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    cuts = layer.dt_rank, layer.dt_rank + layer.state_size
    r, b, c = jnp.split(product(x, layer.w_x.T), cuts, axis=-1)
    dt, a = product(r, layer.w_dt.T), -jnp.exp(layer.a_log)
    return scan(c, b, x, dt, a, d=layer.d, dt_bias=layer.b_dt, dt_softplus=True)[0]


PEERS = (
    *(Peer(f"torch nn.{kind}", kind, (TORCH,), _torch) for kind in ("RNN", "LSTM", "GRU")),
    Peer("jax.experimental.rnn", "LSTM", (), functools.partial(_by_jax, jax_lstm), gpu=True),
    Peer(
        *("jax-linear-attention", "SelectiveSSM", (("jax-linear-attention", "jla"),)),
        functools.partial(_by_jax, jla_mamba),
        gpu=True,
    ),
)
