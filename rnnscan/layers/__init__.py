"""One file per layer; each is a frozen dataclass of its weights, and a pytree."""

from rnnscan.layers.attention import CausalSelfAttention as CausalSelfAttention
from rnnscan.layers.attention import KeyValueCache as KeyValueCache
from rnnscan.layers.conv import CausalConv1D as CausalConv1D
from rnnscan.layers.gru import GRU as GRU
from rnnscan.layers.linear_rnn import LinearRNN as LinearRNN
from rnnscan.layers.lru import LRU as LRU
from rnnscan.layers.lstm import LSTM as LSTM
from rnnscan.layers.mamba import Mamba as Mamba
from rnnscan.layers.min_gru import MinGRU as MinGRU
from rnnscan.layers.min_lstm import MinLSTM as MinLSTM
from rnnscan.layers.mlp import MLP as MLP
from rnnscan.layers.rnn import RNN as RNN
from rnnscan.layers.selective_ssm import SelectiveSSM as SelectiveSSM
from rnnscan.layers.sequence_model import SequenceModel as SequenceModel
