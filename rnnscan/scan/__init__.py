"""Evaluate one recurrence; the only place where a method or a kernel is chosen."""

from rnnscan.scan.linear import explain_linear_scan as explain_linear_scan
from rnnscan.scan.linear import linear_scan as linear_scan
from rnnscan.scan.matrix import explain_matrix_scan as explain_matrix_scan
from rnnscan.scan.matrix import matrix_scan as matrix_scan
