"""Sequences to learn from."""

from rnnscan.tasks.digits import Digits as Digits
from rnnscan.tasks.digits import Split as Split
from rnnscan.tasks.digits import digits as digits
from rnnscan.tasks.recall import Recall as Recall
from rnnscan.tasks.recall import associative_recall as associative_recall
