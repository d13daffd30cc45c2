"""The recurrent cells, one file of equations each."""

from typing import Literal

from rnnscan.scan.cell_kinds import gru, lstm, relu, tanh
from rnnscan.scan.cell_kinds.cell import Cell

CellKind = Literal["tanh", "relu", "lstm", "gru"]
CELLS: dict[str, Cell] = {c.name: c for c in (tanh.cell, relu.cell, lstm.cell, gru.cell)}
