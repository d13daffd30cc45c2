"""Sequences to learn: made here (`associative_recall`, `parity`), or read from what is installed.

>>> associative_recall(100, length=32, pairs=3, vocabulary=16).x.shape
(100, 32)
"""

from rnnscan.tasks.acsf1 import Appliances as Appliances
from rnnscan.tasks.acsf1 import acsf1 as acsf1
from rnnscan.tasks.characters import Characters as Characters
from rnnscan.tasks.characters import python_reference as python_reference
from rnnscan.tasks.digits import Digits as Digits
from rnnscan.tasks.digits import digits as digits
from rnnscan.tasks.parity import Parity as Parity
from rnnscan.tasks.parity import parity as parity
from rnnscan.tasks.recall import Recall as Recall
from rnnscan.tasks.recall import associative_recall as associative_recall
from rnnscan.tasks.splits import Split as Split
