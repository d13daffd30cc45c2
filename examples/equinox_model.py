"""A layer as a field of an Equinox module, trained with optax: every weight of the layer learns.

Both are pytrees, so nothing is to be done: `eqx.filter_value_and_grad` differentiates the arrays,
and what is static in the layer (`method`) belongs to the structure of the tree and stays.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from rnnscan import LSTM


class Model(eqx.Module):
    """An LSTM, and a head that reads its last step."""

    layer: LSTM
    head: eqx.nn.Linear

    def __init__(self, key, hidden_size):
        layer_key, head_key = jax.random.split(key)
        self.layer = LSTM.init(layer_key, 1, hidden_size, forget_bias=1.0)
        self.head = eqx.nn.Linear(hidden_size, 1, key=head_key)

    def __call__(self, x):
        y, _ = self.layer(x)
        return jax.vmap(self.head)(y[:, -1])


optimizer = optax.adam(1e-2)


@eqx.filter_jit
def train_step(model, moments, x, target):
    def loss(model):
        return jnp.mean((model(x) - target) ** 2)

    value, gradient = eqx.filter_value_and_grad(loss)(model)
    updates, moments = optimizer.update(gradient, moments)
    return eqx.apply_updates(model, updates), moments, value


x = jax.random.normal(jax.random.key(0), (64, 8, 1))
target = x[:, 0]  # to be remembered to the end
first = model = Model(jax.random.key(1), hidden_size=16)
moments = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
losses = []
for _ in range(100):
    model, moments, loss = train_step(model, moments, x, target)
    losses.append(float(loss))

before, after = (jax.tree.leaves(m.layer) for m in (first, model))
trained = [bool((old != new).any()) for old, new in zip(before, after, strict=True)]
assert all(trained), trained
assert jax.tree.structure(model) == jax.tree.structure(first)  # static fields are part of it
assert losses[-1] < 0.2 * losses[0], losses
print(f"all {len(trained)} weights trained, loss {losses[0]:.2f} -> {losses[-1]:.3f}")
