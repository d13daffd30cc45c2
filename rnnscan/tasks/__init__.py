"""Sequences to learn from."""

from rnnscan.tasks.digits import Digits as Digits
from rnnscan.tasks.digits import Split as Split
from rnnscan.tasks.digits import digits as digits
