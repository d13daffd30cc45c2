"""A layer inside a Flax NNX module, trained with optax: every weight of the layer learns.

The trap: `self.layer = GRU.init(...)` raises, and the error suggests `nnx.data(layer)`. With that
alone the model runs and its loss falls a little, but nnx trains only what is an `nnx.Param`, here
the head: the layer keeps the weights it began with, and nothing says so.

What works: each weight becomes a Param on the way in, and an array again where the layer is called
(`nnx.as_pure`). One Param around the whole layer does not: the optimizer's update raises.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rnnscan import GRU


class Model(nnx.Module):
    """A GRU, and a head that reads its last step."""

    def __init__(self, rngs: nnx.Rngs):
        layer = GRU.init(rngs.params(), input_size=1, hidden_size=16, num_layers=2)
        self.layer = nnx.data(jax.tree.map(nnx.Param, layer))
        self.head = nnx.Linear(layer.output_size, 1, rngs=rngs)

    def __call__(self, x):
        y, _ = nnx.as_pure(self.layer)(x)
        return self.head(y[:, -1])


@nnx.jit
def train_step(model, optimizer, x, target):
    def loss(model):
        return jnp.mean((model(x) - target) ** 2)

    value, gradient = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradient)
    return value


x = jax.random.normal(jax.random.key(0), (64, 8, 1))
target = x[:, 0]  # to be remembered to the end
model = Model(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
before = jax.tree.leaves(jax.tree.map(jnp.copy, nnx.as_pure(model.layer)))
losses = [float(train_step(model, optimizer, x, target)) for _ in range(100)]
after = jax.tree.leaves(nnx.as_pure(model.layer))

trained = [bool((old != new).any()) for old, new in zip(before, after, strict=True)]
assert all(trained), trained
assert losses[-1] < 0.2 * losses[0], losses
print(f"all {len(trained)} weights trained, loss {losses[0]:.2f} -> {losses[-1]:.3f}")
