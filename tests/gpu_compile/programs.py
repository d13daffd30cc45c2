"""The programs that are compiled for an H100: one list, of at most 46.

They are of the kinds that `scripts/accelerator.sh` runs: calls as in tests/gpu, by every method
that a table offers on a GPU, a new one too; and a training step of each layer in the configuration
of its experiment, and of some that are not, at the shortest length there.

A scan states the most bytes that it may take for temporaries, which come beside results and
gradients. With n for the bytes of h, in the dtype in which it is carried:

    linear_scan   `sequential`: rows of single steps. `blocked`: 10 / C of n, for chunks of C steps.
                  `associative`: the pairs of its tree, 2 n, and decays one step late, n. Any other
                  method: no array of h's size.
    matrix_scan   `associative`: its pairs and decays likewise, and h_{t-1} and the adjoint, which
                  are multiplied. Others: some arrays of h's size, 12 as in tests/scan, fewer than
                  a constant A spelled out over time.

A backward pass that stands alone is given what the forward pass kept, and nothing else: a and h, or
of a cell its operands, its states, and gates where it has any.
"""

import math
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import rnnscan
from experiments.nonlinear_parallel.programs import Way, shapes
from rnnscan import (
    CellWeights,
    cell_scan,
    explain_cell_scan,
    explain_linear_scan,
    explain_matrix_scan,
    linear_scan,
    matrix_scan,
    nonlinear_scan,
)
from rnnscan.scan import CELLS, carry_dtype, nonlinear_table
from rnnscan.scan.linear_methods.blocked import chunk_length
from tests.scan.cases import Call

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "experiments/wallclock/configs/gpu_short.toml").read_text())
PARALLEL = tomllib.loads(
    (ROOT / "experiments/nonlinear_parallel/configs/gpu.toml").read_text(encoding="utf-8")
)
BATCH, LENGTH, WIDTH = CONFIG["batch"], min(CONFIG["lengths"]), CONFIG["width"]
# Layers beside those, narrower: they compile in a third of the time.
OTHERS = ("LinearRNN", "MinGRU", "Mamba", "CausalSelfAttention")
FEW = 4096  # bytes of scalars, counters, and gaps between arrays

VARYING = Call(b=(BATCH, LENGTH, WIDTH), a=(BATCH, LENGTH, WIDTH), axis=1)
CONSTANT = Call(b=(BATCH, LENGTH, WIDTH), a=(WIDTH,), axis=1)
BFLOAT16 = Call(b=(1000, 130), a=(130,), h0=(130,), dtype="bfloat16")
COMPLEX = Call(b=(3, 70, 1025), a=(3, 1, 1025), axis=2, dtype="complex64")
RESET = Call(b=(4097, 33), a=(4097, 33), h0=(33,), reset=(4097,))
MATRIX = Call(b=(257, 2, 32), a=(32, 32), h0=(2, 32))
VARYING_MATRIX = Call(b=(2, 65, 8), a=(2, 65, 8, 8), axis=1, reverse=True, reset=(65,))


class Program(NamedTuple):
    """What is compiled, for arguments by shapes, and the most bytes of temporaries and of these."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    temporaries: float = math.inf
    given: float = math.inf


Named = Iterator[tuple[str, Callable[[], Program]]]


def programs() -> dict[str, Callable[[], Program]]:
    """All of them by name, each made when it is asked for; what takes longest comes first."""
    scans = _of_nonlinear_scan, _of_matrix_scan, _of_cell_scan, _of_linear_scan
    return dict([*_of_layers(), *(named for scan in scans for named in scan())])


def _of_layers() -> Named:
    for row in [*CONFIG["layers"], *({"name": kind, "kind": kind, "width": 32} for kind in OTHERS)]:
        yield f"training-{row['name']}", partial(_training_step, **row)


def _of_linear_scan() -> Named:
    alone = [(_forward, VARYING), (_backward, VARYING), (_backward, CONSTANT)]
    for make, call in [*alone, (_both, BFLOAT16), (_both, COMPLEX)]:
        for method in _methods(call):
            yield f"linear-{method}{make.__name__}-{call}", partial(make, call, method)
    yield f"linear-auto_both-{RESET}", partial(_both, RESET, "auto")


def _of_matrix_scan() -> Named:
    pairs = [(method, MATRIX) for method in _methods(MATRIX)] + [("auto", VARYING_MATRIX)]
    for method, call in pairs:
        yield f"matrix-{method}_both-{call}", partial(_both, call, method)


def _of_cell_scan() -> Named:
    for kind in CELLS:
        for row in explain_cell_scan(kind, *_cell_operands(kind), platform="cuda"):
            # But for one operation relu is tanh; those of nonlinear_scan share their backward pass.
            if row.available and kind != "relu" and row.method not in nonlinear_table.names:
                yield f"cell-{row.method}_backward-{kind}", partial(_cell, kind, row.method)
    yield "cell-newton_both-lstm", _cell_at_once


def _of_nonlinear_scan() -> Named:
    """Beside one with gradients, what `nonlinear_parallel` measures; a bound on errors compiles as
    part of the first."""
    yield "nonlinear-auto_both", _nonlinear
    for case in PARALLEL["cases"]:
        name, length, width = case.get("cell", "rnn"), case["length"], case["width"]
        for method in ("lax.scan", *case["methods"]):
            way = Way(method, PARALLEL["max_iterations"], case.get("tol", 8.0))
            shown = f"nonlinear-{method}_forward-{name}-{length}-{width}"
            yield shown, partial(_evaluation, name, length, width, way)


def _shape(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# Calls of linear_scan and matrix_scan.


def _operands(call: Call) -> list[jax.ShapeDtypeStruct]:
    """a, b and, where there is one, h0."""
    shapes = (shape for shape in (call.a, call.b, call.h0) if shape is not None)
    return [_shape(*shape, dtype=jnp.dtype(call.dtype)) for shape in shapes]


def _rows(call: Call) -> Any:
    explain = explain_matrix_scan if call.matrix else explain_linear_scan
    return explain(*_operands(call), axis=call.axis, platform="cuda")


def _methods(call: Call) -> list[str]:
    return [row.method for row in _rows(call) if row.available]


def _scan(call: Call, method: str) -> Callable[..., jax.Array]:
    scan: Any = matrix_scan if call.matrix else linear_scan
    return partial(scan, method=method, **call.options)


def _forward(call: Call, method: str) -> Program:
    return Program(_scan(call, method), tuple(_operands(call)), _temporaries(call, method))


def _backward(call: Call, method: str) -> Program:
    a, b = _operands(call)
    h, pull = jax.eval_shape(partial(jax.vjp, _scan(call, method)), a, b)
    a_h_and_g = _bytes((a, h, h)) + FEW
    return Program(lambda pull, g: pull(g), (pull, h), _temporaries(call, method), a_h_and_g)


def _both(call: Call, method: str) -> Program:
    scan, operands = _scan(call, method), _operands(call)

    def both(operands, reset, g):
        h, pull = jax.vjp(partial(scan, reset=reset), *operands)
        return h, pull(g)

    reset = None if call.reset is None else _shape(*call.reset, dtype=bool)
    return Program(both, (operands, reset, operands[1]), _temporaries(call, method))


def _temporaries(call: Call, method: str) -> int:
    if method == "auto":
        method = next(row.method for row in _rows(call) if row.chosen)
    dtype = jnp.dtype(call.dtype)
    h, wide = math.prod(call.b), carry_dtype(dtype).itemsize
    decays, width = h * (call.b[-1] if call.matrix else 1), h // call.length
    if method == "associative":
        most = wide * (2 * decays + (3 if call.matrix else 1) * h)
    elif call.matrix:
        most = wide * 12 * h
    elif method == "sequential":
        most = wide * 10 * width
    elif method == "blocked":
        most = wide * 10 * h // chunk_length(call.length, width)
    else:
        most = dtype.itemsize * h
    return most + FEW


# Cells and layers.


def _cell_operands(kind: Any) -> tuple[CellWeights, jax.ShapeDtypeStruct, tuple[Any, ...]]:
    cell, n = CELLS[kind], WIDTH
    gates, bias_hn = cell.gates * n, _shape(n) if cell.apart else None
    weights = CellWeights(_shape(gates, n), _shape(gates), _shape(gates, n), bias_hn)
    return weights, _shape(BATCH, LENGTH, n), tuple(_shape(BATCH, n) for _ in cell.states)


def _cell(kind: Any, method: Any) -> Program:
    operands, cell = _cell_operands(kind), CELLS[kind]
    scan = partial(cell_scan, kind, method=method)
    h, pull, _ = jax.eval_shape(partial(jax.vjp, scan, has_aux=True), *operands)
    given = _bytes(operands) + (len(cell.states) + cell.kept + 1) * _bytes(h) + FEW  # and g
    return Program(lambda pull, g: pull(g), (pull, h), given=given)


def _cell_at_once() -> Program:
    """An LSTM by Newton's iteration, the certificates of its sequences, and its gradients."""
    layer = jax.eval_shape(lambda: rnnscan.LSTM.init(jax.random.key(0), 8, 8))
    x, lengths = _shape(2, 257, 8), _shape(2, dtype=jnp.int32)

    def both(layer, x, lengths, g):
        def values(layer, x):
            y, _, found = layer.with_convergence(x, None, lengths, method="newton")
            return y, found

        y, pull, found = jax.vjp(values, layer, x, has_aux=True)
        return y, found, pull(g)

    return Program(both, (layer, x, lengths, x))


def _evaluation(name: str, length: int, width: int, way: Way) -> Program:
    return Program(partial(way.answered, name), tuple(shapes(name, length, width)))


def _nonlinear() -> Program:
    """A tanh RNN by Newton's iteration, its certificate and its gradients."""

    def both(W, xs, g):
        def states(W, xs):
            return nonlinear_scan(lambda h, x: jnp.tanh(W @ h + x), jnp.zeros(8), xs)

        hs, pull, found = jax.vjp(states, W, xs, has_aux=True)
        return hs, found, pull(g)

    return Program(both, (_shape(8, 8), _shape(257, 8), _shape(257, 8)))


def _training_step(*, name: str, kind: str, width: int = WIDTH, **options: Any) -> Program:
    """One step of Adam on a mean square."""
    import optax  # here: the list is read where there is nothing to compile, too

    del name
    if kind == "CausalSelfAttention":
        options["context"] = LENGTH
    sizes = [width] if kind in ("SelectiveSSM", "Mamba") else [width, width]
    adam = optax.adam(1e-3)

    def step(layer, state, x, y):
        value, gradient = jax.value_and_grad(lambda layer: jnp.mean((layer(x)[0] - y) ** 2))(layer)
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it
            updates, state = adam.update(gradient, state, layer)
        return optax.apply_updates(layer, updates), state, value

    init = getattr(rnnscan, kind).init
    layer = jax.eval_shape(lambda: init(jax.random.key(0), *sizes, **options))
    x = _shape(BATCH, LENGTH, width)
    return Program(step, (layer, jax.eval_shape(adam.init, layer), x, x))
