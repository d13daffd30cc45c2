"""Recurrences in JAX: evaluated in parallel over time, trained, and studied."""

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
from rnnscan.scan import cell_scan as cell_scan
from rnnscan.scan import explain_cell_scan as explain_cell_scan
from rnnscan.scan import explain_linear_scan as explain_linear_scan
from rnnscan.scan import explain_matrix_scan as explain_matrix_scan
from rnnscan.scan import linear_scan as linear_scan
from rnnscan.scan import matrix_scan as matrix_scan

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "MLP",
    "RNN",
    "CausalConv1D",
    "CausalSelfAttention",
    "CellWeights",
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
    "linear_scan",
    "matrix_scan",
]
