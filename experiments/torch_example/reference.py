"""What `torch.nn` makes of a recurrent layer: values, final states and every gradient, in float64.

Weights and inputs are numbers that float32 holds exactly, so that one reference judges both
precisions. torch is needed to make a reference, not to read one.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan import GRU, LSTM, RNN

Arrays = dict[str, np.ndarray]
LAYERS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
STORED = Path(__file__).with_name("article.npz")

# Batch 2, length 5, input 10, hidden 20, one layer, batch first.
ARTICLE = {"input_size": 10, "hidden_size": 20, "batch": 2, "time": 5}


def available() -> bool:
    """Whether torch is installed here."""
    return importlib.util.find_spec("torch") is not None


def reference(
    seed: int,
    *,
    layer: str = "RNN",
    input_size: int,
    hidden_size: int,
    time: int,
    batch: int | None = None,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    nonlinearity: str = "tanh",
    lengths: list[int] | None = None,
    state: bool = False,
) -> Arrays:
    """What goes in, what comes out, and the gradients of <y, dy> + <last, dlast>.

    Keys: x, state (if given), y, last; dy, dlast (cotangents); and "weight/...", "grad/..." for the
    weights by torch's names, x and state. An LSTM's states are (2, ...): h, then c.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.utils import rnn as packing  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    options: dict[str, Any] = {"nonlinearity": nonlinearity} if layer == "RNN" else {}
    module = getattr(torch.nn, layer)(
        input_size,
        hidden_size,
        num_layers,
        bias=bias,
        bidirectional=bidirectional,
        batch_first=True,
        dtype=torch.float64,
        **options,
    )
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.from_numpy(draw(*weight.shape)) * hidden_size**-0.5 / 2)
            weight.copy_(weight.float())
    leading = () if batch is None else (batch,)
    directions = 2 if bidirectional else 1
    pair = (2,) if layer == "LSTM" else ()
    out = {"x": draw(*leading, time, input_size)}
    if state:
        out["state"] = draw(*pair, num_layers * directions, *leading, hidden_size)
    out["dy"] = draw(*leading, time, directions * hidden_size)
    out["dlast"] = draw(*pair, num_layers * directions, *leading, hidden_size)

    given = [key for key in ("x", "state") if key in out]
    inputs = {key: torch.tensor(out[key], requires_grad=True) for key in given}
    x, first = inputs["x"], inputs.get("state")
    if lengths is not None:
        sizes = torch.tensor(lengths)
        x = packing.pack_padded_sequence(x, sizes, batch_first=True, enforce_sorted=False)
    y, last = module(x, tuple(first) if pair and first is not None else first)
    last = torch.stack(last) if pair else last
    if lengths is not None:
        y, _ = packing.pad_packed_sequence(y, batch_first=True, total_length=time)
    loss = (y * torch.from_numpy(out["dy"])).sum() + (last * torch.from_numpy(out["dlast"])).sum()
    loss.backward()
    out |= {"y": y.detach().numpy(), "last": last.detach().numpy()}
    weights = dict(module.named_parameters())
    out |= {f"weight/{name}": value.detach().numpy() for name, value in weights.items()}
    return out | {f"grad/{k}": np.asarray(leaf.grad) for k, leaf in (weights | inputs).items()}


def stored(path: Path = STORED) -> tuple[str, dict[str, dict[str, Any]], dict[str, Arrays]]:
    """The torch version, the cases by name, and the reference of each."""
    with np.load(path) as file:
        arrays = dict(file)
    cases = json.loads(str(arrays.pop("cases")))
    version = str(arrays.pop("torch"))
    references: dict[str, Arrays] = {name: {} for name in cases}
    for key, value in arrays.items():
        name, _, rest = key.partition("/")
        references[name][rest] = value
    return version, cases, references


def store(cases: dict[str, dict[str, Any]], path: Path) -> None:
    """Writes references that `stored` reads."""
    import torch  # pyright: ignore[reportMissingImports]

    arrays = {"torch": np.array(torch.__version__), "cases": np.array(json.dumps(cases))}
    for seed, (name, case) in enumerate(cases.items()):
        arrays |= {f"{name}/{key}": value for key, value in reference(seed, **case).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def computed(case: dict[str, Any], expected: Arrays, dtype: Any) -> Arrays:
    """The same by this package, in another precision: y, last and "grad/..." by torch's names."""
    cls = LAYERS[case.get("layer", "RNN")]
    options = {"nonlinearity": case["nonlinearity"]} if "nonlinearity" in case else {}
    cast = {key: np.asarray(value, dtype) for key, value in expected.items()}
    names = [key.removeprefix("weight/") for key in cast if key.startswith("weight/")]
    given = {key: cast[key] for key in ("x", "state") if key in cast}
    pair = cls is LSTM

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(layer: Any, given: dict[str, jax.Array]) -> Any:
        state = given.get("state")
        first = None if state is None else (state[0], state[1]) if pair else state
        y, last = layer(given["x"], first, case.get("lengths"))
        last = jnp.stack(last) if pair else last
        return jnp.sum(y * cast["dy"]) + jnp.sum(last * cast["dlast"]), (y, last)

    layer = cls.from_torch({name: cast[f"weight/{name}"] for name in names}, **options)
    (_, (y, last)), (of_layer, of_given) = run(layer, given)
    found = {"y": y, "last": last} | {f"grad/{key}": value for key, value in of_given.items()}
    for number, directions in enumerate(of_layer.cells):
        for cell, suffix in zip(directions, ("", "_reverse"), strict=False):
            for field, name in (
                ("w_ih", "weight_ih"),
                ("w_hh", "weight_hh"),
                ("b_ih", "bias_ih"),
                ("b_hh", "bias_hh"),
            ):
                if getattr(cell, field) is not None:
                    found[f"grad/{name}_l{number}{suffix}"] = getattr(cell, field)
    return {key: np.asarray(value) for key, value in found.items()}


def errors(found: Arrays, expected: Arrays) -> tuple[float, float]:
    """Of values and of gradients: the largest error relative to the largest reference value.

    That is the largest state of any step, for the last one too: where it is a small difference of
    larger numbers (relu), it is no more exact than they are. Each gradient has its own.
    """

    def error(key: str, size: float) -> float:
        return float(np.abs(np.float64(found[key]) - expected[key]).max() / max(size, 1e-300))

    def largest(*keys: str) -> float:
        return max(float(np.abs(expected[key]).max()) for key in keys)

    size = largest("y", "last")
    gradients = [key for key in expected if key.startswith("grad/")]
    # np.max keeps a nan, which max() may lose.
    return (
        float(np.max([error("y", size), error("last", size)])),
        float(np.max([error(key, largest(key)) for key in gradients])),
    )
