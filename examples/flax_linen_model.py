"""A layer inside a Flax Linen module, trained with optax: every weight of the layer learns.

The whole layer is one parameter, `self.param(name, init)`: Linen takes any pytree there. Optimizer
and gradient see its weights, static fields such as `method` travel along in the tree.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from rnnscan import GRU


class Model(nn.Module):
    """A GRU, and a head that reads its last step."""

    hidden_size: int

    @nn.compact
    def __call__(self, x):
        layer = self.param("layer", lambda key: GRU.init(key, x.shape[-1], self.hidden_size))
        y, _ = layer(x)
        return nn.Dense(1)(y[:, -1])


model, optimizer = Model(hidden_size=16), optax.adam(1e-2)


@jax.jit
def train_step(variables, moments, x, target):
    def loss(variables):
        return jnp.mean((model.apply(variables, x) - target) ** 2)

    value, gradient = jax.value_and_grad(loss)(variables)
    updates, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(variables, updates), moments, value


x = jax.random.normal(jax.random.key(0), (64, 8, 1))
target = x[:, 0]  # to be remembered to the end
first = variables = model.init(jax.random.key(1), x)
moments = optimizer.init(variables)
losses = []
for _ in range(100):
    variables, moments, loss = train_step(variables, moments, x, target)
    losses.append(float(loss))

before, after = (jax.tree.leaves(tree["params"]["layer"]) for tree in (first, variables))
trained = [bool((old != new).any()) for old, new in zip(before, after, strict=True)]
assert all(trained), trained
assert losses[-1] < 0.2 * losses[0], losses
print(f"all {len(trained)} weights trained, loss {losses[0]:.2f} -> {losses[-1]:.3f}")
