"""A layer saved with Orbax and restored: the outputs are equal to the last bit.

Orbax writes the weights by their names in the tree. What is static (here `method`) is code, not
data: it comes from the same `init`, whose shapes are enough (`jax.eval_shape`: nothing is drawn).
Other sizes and other numbers of layers are refused; that a layer now has no bias is not noticed.
The dictionary {"layer": layer, "moments": moments} of a training run goes the same way.
"""

import tempfile
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from rnnscan import GRU


def init(key):
    return GRU.init(key, input_size=3, hidden_size=8, num_layers=2, method="scan")


layer = init(jax.random.key(0))
with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
    path = Path(folder) / "layer"
    checkpointer.save(path, layer)
    checkpointer.wait_until_finished()
    shapes = jax.eval_shape(init, jax.random.key(0))
    restored = checkpointer.restore(path, shapes)

x = jax.random.normal(jax.random.key(1), (2, 5, 3))
y, _ = layer(x)
again, _ = restored(x)
assert isinstance(restored, GRU)
assert restored.method == "scan"
assert (y == again).all()
print(f"restored {len(jax.tree.leaves(restored))} weights, outputs equal")
