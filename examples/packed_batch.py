"""Sequences of different lengths, laid one after another in rows: one call, no step wasted.

`reset` is true where a sequence begins: what came before it in the row is forgotten. `lengths` says
where the padding of a row begins. Outputs and gradient are those of a call for each sequence.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan import GRU

TIME, FEATURES = 16, 3
rng = np.random.default_rng(0)


def draw(*lengths):
    return [rng.standard_normal((n, FEATURES), np.float32) for n in lengths]


rows = [draw(7, 3, 5), draw(7, 5)]

x = np.full((len(rows), TIME, FEATURES), np.nan, np.float32)  # padding, which is never looked at
reset = np.zeros((len(rows), TIME), bool)
lengths = np.array([sum(map(len, row)) for row in rows])
places = []  # of each sequence: (row, its steps)
for r, row in enumerate(rows):
    ends = np.cumsum([len(sequence) for sequence in row])
    for sequence, end in zip(row, ends, strict=True):
        steps = slice(end - len(sequence), end)
        x[r, steps], reset[r, steps.start] = sequence, True
        places.append((r, steps))


def packed(layer):
    y, _ = layer(x, lengths=lengths, reset=reset)
    return [y[r, steps] for r, steps in places]


def separate(layer):
    return [layer(sequence)[0] for row in rows for sequence in row]


def outputs_and_gradient(outputs):
    def loss(layer):
        y = outputs(layer)
        return sum(jnp.mean(part**2) for part in y), y

    return jax.jit(jax.grad(loss, has_aux=True))


layer = GRU.init(jax.random.key(0), FEATURES, 8)
both = [outputs_and_gradient(f)(layer) for f in (packed, separate)]
pairs = list(zip(*map(jax.tree.leaves, both), strict=True))
assert all(bool(jnp.allclose(one, other, atol=1e-5)) for one, other in pairs)
assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(both))
print(f"{len(places)} sequences in {len(rows)} rows of {TIME} steps: outputs and gradient agree")
