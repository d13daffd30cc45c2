"""The weights of one direction of one layer, and how a stack of them is read from torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan.layer_parts.arguments import known_to_numpy
from rnnscan.layer_parts.shown import Shown

GATES_OF = {1: "RNN", 3: "GRU", 4: "LSTM"}
TORCH_KEY = re.compile(r"(weight|bias)_(ih|hh)_l(\d+)(_reverse)?")
IN_A_MODEL = re.compile(rf"(.+\.){TORCH_KEY.pattern}")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class Cell(Shown):
    """Weights of one recurrence, input to hidden (`ih`) and hidden to hidden (`hh`), as in torch.

    Those of G gates are stacked in torch's order: i f g o of an LSTM, r z n of a GRU.

    Only the sum of the two biases ever matters. They are kept apart because torch keeps them apart:
    an optimiser that sees both moves their sum twice as far.
    """

    w_ih: jax.Array  # (G * hidden, features)
    w_hh: jax.Array  # (G * hidden, hidden)
    b_ih: jax.Array | None  # (G * hidden,); None without biases
    b_hh: jax.Array | None


def cells_from_torch(
    arrays: Mapping[str, Any], name: str, gates: int
) -> tuple[tuple[Cell, ...], ...]:
    """`cells[layer][direction]` from the state_dict of the `torch.nn` module of this name.

    Raises one ValueError that lists every missing, unexpected or misshapen key, and TypeError for
    what is no state_dict.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(
            "from_torch: expected names and arrays, such as module.state_dict() holds, got a "
            f"{type(arrays).__name__}"
        )
    if not all(isinstance(key, str) for key in arrays):
        raise TypeError(f"from_torch: expected names as keys, got {list(arrays)}")
    known = [match for key in arrays if (match := TORCH_KEY.fullmatch(key))]
    if not known:
        raise ValueError(
            "from_torch: expected keys like 'weight_ih_l0' (the state_dict of one "
            f"torch.nn.{name}, without a prefix), got {_without_known(arrays)}"
        )
    if projections := [key for key in arrays if key.startswith("weight_hr_l")]:
        raise ValueError(f"from_torch: projections (proj_size) are not offered, got {projections}")
    num_layers = 1 + max(int(match[3]) for match in known)
    directions = ("", "_reverse") if any(match[4] for match in known) else ("",)
    kinds = ["weight_ih", "weight_hh"]
    if any(match[1] == "bias" for match in known):
        kinds += ["bias_ih", "bias_hh"]

    values = {key: _on_the_host(value) for key, value in arrays.items()}
    input_size, hidden = _sizes(values, gates)
    rows = gates * hidden
    expected = {}
    for layer in range(num_layers):
        features = hidden * len(directions) if layer else input_size
        for direction in directions:
            shapes = [(rows, features), (rows, hidden), (rows,), (rows,)]
            for kind, shape in zip(kinds, shapes, strict=False):
                expected[f"{kind}_l{layer}{direction}"] = shape

    faults = [f"missing {key}" for key in expected if key not in values]
    faults += [f"unexpected {key}" for key in values if key not in expected]
    for key, shape in expected.items():
        if key in values and values[key].shape != shape:
            faults.append(f"{key}: expected shape {shape}, got {values[key].shape}")
        elif key in values and not jnp.issubdtype(values[key].dtype, jnp.floating):
            faults.append(f"{key}: expected a floating dtype, got {values[key].dtype}")
    if faults:
        raise ValueError("from_torch: " + "; ".join(faults) + _of_another(values, name))

    # A copy: on a CPU jax may otherwise share memory with a torch weight that is trained further.
    def cell(suffix: str) -> Cell:
        read = [jnp.array(values[kind + suffix]) for kind in kinds]
        return Cell(*read, *[None] * (4 - len(read)))

    return tuple(tuple(cell(f"_l{n}{d}") for d in directions) for n in range(num_layers))


def _on_the_host(value: Any) -> np.ndarray:
    """A weight as an array, from a tensor of torch (a parameter, on any device) as well."""
    if hasattr(value, "detach"):
        value = known_to_numpy(value.detach().cpu())
    return np.asarray(value)


def _without_known(arrays: Mapping[str, Any]) -> str:
    """The keys, of which none is one of a layer; of a whole model, where in it the layers are."""
    prefixes = sorted({match[1] for key in arrays if (match := IN_A_MODEL.fullmatch(key))})
    if not prefixes:
        return str(sorted(arrays))
    return (
        f"those of a model with such layers at {' and '.join(map(repr, prefixes))}: take one, "
        f"{{key[{len(prefixes[0])}:]: array for key, array in state_dict.items() if "
        f"key.startswith({prefixes[0]!r})}}"
    )


def _of_another(values: Mapping[str, np.ndarray], name: str) -> str:
    """What to say where the weights have the gates of another kind of layer."""
    w_hh = values.get("weight_hh_l0", np.empty(()))
    if w_hh.ndim != 2 or not w_hh.shape[1]:
        return ""
    found = GATES_OF.get(w_hh.shape[0] / w_hh.shape[1], name)
    return "" if found == name else f" (these look like the weights of a torch.nn.{found})"


def _sizes(values: Mapping[str, np.ndarray], gates: int) -> tuple[int, int]:
    """(input size, hidden size), read off the first layer; -1 where it cannot be read."""
    w_ih, w_hh = (values.get(f"weight_{kind}_l0", np.empty(())) for kind in ("ih", "hh"))
    input_size = w_ih.shape[1] if w_ih.ndim == 2 else -1
    hidden = w_hh.shape[1] if w_hh.ndim == 2 else w_ih.shape[0] // gates if w_ih.ndim == 2 else -1
    return input_size, hidden
