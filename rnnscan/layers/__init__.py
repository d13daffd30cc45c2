"""One file per layer; each is a frozen dataclass of its weights, and a pytree."""

from rnnscan.layers.gru import GRU as GRU
from rnnscan.layers.linear_rnn import LinearRNN as LinearRNN
from rnnscan.layers.lru import LRU as LRU
from rnnscan.layers.lstm import LSTM as LSTM
from rnnscan.layers.rnn import RNN as RNN
