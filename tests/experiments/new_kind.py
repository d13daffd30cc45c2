"""A kind of layer that rnnscan does not have, in one row, and experiments on it: a script.

A process of its own, as configs are made of the rows that are there when they are imported.
"""

import sys
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from experiments.harness import kinds
from experiments.harness.layer_options import Options
from rnnscan.layer_parts.affine import in_line, product
from rnnscan.layer_parts.layer import ScanLayer
from rnnscan.layer_parts.state import Slot
from rnnscan.scan import linear_scan, linear_table


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class EMA(ScanLayer):
    """h_t = a * h_{t-1} + (1 - a) * W x_t, y = h: a moving average with a learned decay."""

    table = linear_table
    rate: jax.Array  # (hidden,)
    w: jax.Array  # (hidden, inputs)
    method: str = field(default="auto", metadata={"static": True})

    @classmethod
    def init(cls, key, input_size, hidden_size):
        w = jax.random.normal(key, (hidden_size, input_size)) * input_size**-0.5
        return cls(jnp.linspace(-1.0, 2.0, hidden_size), w)

    @property
    def input_size(self):
        return self.w.shape[-1]

    @property
    def hidden_size(self):
        return self.w.shape[-2]

    output_size = hidden_size

    def _slots(self, batch):
        return Slot((*batch, self.hidden_size))

    def _drive(self, x):
        decay = jax.nn.sigmoid(self.rate)
        return decay, in_line(1 - decay, x.ndim) * product(x, self.w)

    def _evaluate(self, given):
        decay, drive = self._drive(given.x)
        options = {"axis": -2, "reset": given.reset, "method": self.method}
        h = linear_scan(decay, drive, given.state, **options)
        return h, given.last(h)

    def _step(self, x_t, state):
        decay, drive = self._drive(x_t)
        h = in_line(decay, state.ndim) * state + drive
        return h, h


class Average(Options):
    kind: Literal["EMA"]

    def build(self, init, key, sizes):
        return init(key, sizes.input_size, sizes.hidden)

    def describe(self):
        return "decays 0.27 to 0.88"


def _cost(layer, batch, length):
    n = layer.input_size
    return kinds.Cost((2 * n, 6 * n), 2 * n**2 + 3 * n, n)


ROW = kinds.Kind(EMA, Average, kinds.Recurrence.DIAGONAL, "#336699", "d", _cost)

LAYERS = {"layers": [{"name": "EMA", "kind": "EMA"}]}
TIMED = {"rounds": 3, "sample_seconds": 1e-9, "budget_seconds": 1e-3}
STUDY = {"seeds": 1, "parameters": 3000, "training": {"epochs": 1, "batch_size": 8}}
NETWORK = LAYERS | STUDY | {"depth": 1, "length": 12}
SETTINGS = {
    "wallclock": LAYERS
    | TIMED
    | {"lengths": [4], "batch": 2, "width": 3, "product_size": 16}
    | {"directions": ["forward+backward"], "methods": ["sequential", "auto"]},
    "training_and_inference": LAYERS | TIMED | {"lengths": [4], "features": 4, "hidden": 8},
    "any_length": {
        **{"lengths": [4], "windows": [8], "windowed": ["EMA"]},
        **{"features": 3, "hidden": 4, "repeats": 1},
    },
    "parameter_sharing": {"lengths": [10, 20]},
    "gradient_decay": LAYERS
    | {"lengths": [16], "hidden": 8, "input_size": 4, "seeds": 2, "sequences": 1, "fit_lags": 8},
    "digits": LAYERS | STUDY | {"readings": ["rows"], "parameters": 700, "probes": 4},
    "recall": NETWORK | {"pairs": 2, "vocabulary": 8, "train_size": 32, "test_size": 16},
    "characters": NETWORK
    | {"characters": 100, "parameters": 6000, "prompt": "The", "sample_length": 4, "rounds": 3},
    "long_sequences": NETWORK,
}


def main(names):
    kinds.add(ROW)
    from experiments.harness import config, registry  # after the row

    for name in names:
        experiment = registry.load(name)
        settings = config.validate(experiment.Config, SETTINGS[name])
        points = experiment.plan(settings)
        if "layers" not in SETTINGS[name]:  # those that go over all kinds
            points = [point for point in points if point["layer"] in ("EMA", "MLP")]
        records = list(experiment.run(settings, points))
        assert experiment.plot(records)
        assert all(record.get("counts", True) for record in records)
        cells = [
            cell
            for table in experiment.summary(records).tables
            for row in table.rows
            for cell in row
        ]
        assert any(cell.startswith("EMA") for cell in cells), (name, cells)
        print(f"{name}: done")


if __name__ == "__main__":
    main(sys.argv[1:])
