"""A layer as the bytes of `flax.serialization`, and back: the outputs are equal to the last bit.

`to_bytes(layer)` raises, "can not serialize 'GRU' object": flax knows dictionaries, lists and the
classes registered with it, no other pytrees. So it is given a dictionary of the weights by their
names. Its own `from_bytes` compares no shapes and drops weights that are left over in silence;
here both are errors. Whatever has a layer in it (Linen variables, optax moments) goes the same way.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import serialization

from rnnscan import GRU


def named(tree):
    """The leaves by their names: {".cells[0][0].w_ih": ..., ...}."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def to_bytes(tree):
    return serialization.to_bytes(named(tree))


def from_bytes(like, data):
    """The tree in `data`; `like` it in structure, static fields and shapes."""
    saved, expected = serialization.msgpack_restore(data), named(like)
    found, wanted = ({(n, leaf.shape) for n, leaf in d.items()} for d in (saved, expected))
    if found != wanted:
        raise ValueError(f"saved: {sorted(found - wanted)}, expected: {sorted(wanted - found)}")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(saved[n]) for n in expected])


def init(key, hidden_size=8, num_layers=2):
    return GRU.init(key, 3, hidden_size, num_layers=num_layers, method="scan")


layer = init(jax.random.key(0))
data = to_bytes(layer)
restored = from_bytes(jax.eval_shape(init, jax.random.key(0)), data)

x = jax.random.normal(jax.random.key(1), (2, 5, 3))
assert isinstance(restored, GRU)
assert restored.method == "scan"
assert (layer(x)[0] == restored(x)[0]).all()
for other in ({"hidden_size": 9}, {"num_layers": 1}):
    try:
        from_bytes(jax.eval_shape(partial(init, **other), jax.random.key(0)), data)
    except ValueError:
        continue
    raise AssertionError(f"{other} was not refused")
print(f"{len(data)} bytes, outputs equal, layers of other sizes refused")
