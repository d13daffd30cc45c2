"""Recurrences in JAX: evaluated in parallel over time, trained, and studied."""

from rnnscan.layers import GRU as GRU
from rnnscan.layers import LRU as LRU
from rnnscan.layers import LSTM as LSTM
from rnnscan.layers import RNN as RNN
from rnnscan.layers import LinearRNN as LinearRNN
from rnnscan.scan import explain_linear_scan as explain_linear_scan
from rnnscan.scan import explain_matrix_scan as explain_matrix_scan
from rnnscan.scan import linear_scan as linear_scan
from rnnscan.scan import matrix_scan as matrix_scan

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "RNN",
    "LinearRNN",
    "explain_linear_scan",
    "explain_matrix_scan",
    "linear_scan",
    "matrix_scan",
]
