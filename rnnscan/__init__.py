"""Recurrences in JAX: evaluated in parallel over time, trained, and studied.

Scans, a recurrence evaluated for all steps at once, differentiable in every mode:

    linear_scan     h_t = a_t * h_{t-1} + b_t, elementwise
    matrix_scan     h_t = A_t @ h_{t-1} + b_t, dense
    cell_scan       h_t = cell(W_ih x_t + b, W_hh h_{t-1}): tanh, relu, LSTM, GRU; `CellWeights`
    nonlinear_scan  h_t = f(h_{t-1}, x_t), any f, and a `Convergence`: how far to trust it
    selective_scan  h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t, read by C_t: that of Mamba
    explain_*       which method each of them takes, and why

Layers, each made by `init` (those of torch by `from_torch` too), called on sequences batch first,
or on one step by `step`:

    RNN, LSTM, GRU                         as in torch.nn
    LinearRNN, LRU, MinGRU, MinLSTM        linear in the state, parallel over time
    SelectiveSSM, Mamba                    state spaces that the input sets
    CausalSelfAttention, CausalConv1D, MLP without a recurrence; `KeyValueCache`
    SequenceModel                          one network around any of them

Beside them: `rnnscan.gradients` (how far back a gradient reaches) and `rnnscan.tasks` (sequences to
learn). `help(rnnscan.linear_scan)` has equations, shapes, errors and costs, README.md a tour, and
`notebooks/` the story.

>>> import jax, jax.numpy as jnp
>>> from rnnscan import GRU, linear_scan
>>> linear_scan(0.5, jnp.ones(4)).tolist()
[1.0, 1.5, 1.75, 1.875]
>>> layer = GRU.init(jax.random.key(0), input_size=3, hidden_size=4)
>>> y, state = layer(jnp.ones((2, 5, 3)))
>>> y.shape, state.shape
((2, 5, 4), (1, 2, 4))
"""

import importlib.metadata

from rnnscan import gradients as gradients
from rnnscan import tasks as tasks
from rnnscan.layers import GRU as GRU
from rnnscan.layers import LRU as LRU
from rnnscan.layers import LSTM as LSTM
from rnnscan.layers import MLP as MLP
from rnnscan.layers import RNN as RNN
from rnnscan.layers import CausalConv1D as CausalConv1D
from rnnscan.layers import CausalSelfAttention as CausalSelfAttention
from rnnscan.layers import KeyValueCache as KeyValueCache
from rnnscan.layers import LinearRNN as LinearRNN
from rnnscan.layers import Mamba as Mamba
from rnnscan.layers import MinGRU as MinGRU
from rnnscan.layers import MinLSTM as MinLSTM
from rnnscan.layers import SelectiveSSM as SelectiveSSM
from rnnscan.layers import SequenceModel as SequenceModel
from rnnscan.scan import CellWeights as CellWeights
from rnnscan.scan import Convergence as Convergence
from rnnscan.scan import cell_scan as cell_scan
from rnnscan.scan import explain_cell_scan as explain_cell_scan
from rnnscan.scan import explain_linear_scan as explain_linear_scan
from rnnscan.scan import explain_matrix_scan as explain_matrix_scan
from rnnscan.scan import explain_nonlinear_scan as explain_nonlinear_scan
from rnnscan.scan import explain_selective_scan as explain_selective_scan
from rnnscan.scan import linear_scan as linear_scan
from rnnscan.scan import matrix_scan as matrix_scan
from rnnscan.scan import nonlinear_scan as nonlinear_scan
from rnnscan.scan import selective_scan as selective_scan

try:
    __version__ = importlib.metadata.version("rnnscan")
except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "MLP",
    "RNN",
    "CausalConv1D",
    "CausalSelfAttention",
    "CellWeights",
    "Convergence",
    "KeyValueCache",
    "LinearRNN",
    "Mamba",
    "MinGRU",
    "MinLSTM",
    "SelectiveSSM",
    "SequenceModel",
    "cell_scan",
    "explain_cell_scan",
    "explain_linear_scan",
    "explain_matrix_scan",
    "explain_nonlinear_scan",
    "explain_selective_scan",
    "gradients",
    "linear_scan",
    "matrix_scan",
    "nonlinear_scan",
    "selective_scan",
    "tasks",
]
