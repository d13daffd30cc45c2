"""Evaluate one recurrence; the only place where a method or a kernel is chosen.

The rest of the package comes in by this door: the scans, their tables of methods, and what they
decide for the layers on top of them.
"""

from rnnscan.scan.arguments import flags as flags
from rnnscan.scan.arguments import lined_up as lined_up
from rnnscan.scan.arguments import nearest as nearest
from rnnscan.scan.arguments import vary_alike as vary_alike
from rnnscan.scan.cell_kinds import CELLS as CELLS
from rnnscan.scan.cell_kinds import CellKind as CellKind
from rnnscan.scan.cell_method import CellWeights as CellWeights
from rnnscan.scan.cell_methods import CellMethodName as CellMethodName
from rnnscan.scan.cell_methods import cell_table as cell_table
from rnnscan.scan.cells import cell_scan as cell_scan
from rnnscan.scan.cells import cell_scan_with_convergence as cell_scan_with_convergence
from rnnscan.scan.cells import cell_step as cell_step
from rnnscan.scan.cells import explain_cell_scan as explain_cell_scan
from rnnscan.scan.checkpoint import scans_saveable as scans_saveable
from rnnscan.scan.linear import explain_linear_scan as explain_linear_scan
from rnnscan.scan.linear import linear_scan as linear_scan
from rnnscan.scan.linear_method import LinearCase as LinearCase
from rnnscan.scan.linear_method import LinearTable as LinearTable
from rnnscan.scan.linear_methods import LinearMethodName as LinearMethodName
from rnnscan.scan.linear_methods import linear_table as linear_table
from rnnscan.scan.matrix import explain_matrix_scan as explain_matrix_scan
from rnnscan.scan.matrix import matrix_scan as matrix_scan
from rnnscan.scan.matrix_methods import MatrixMethodName as MatrixMethodName
from rnnscan.scan.matrix_methods import matrix_table as matrix_table
from rnnscan.scan.matrix_methods.diagonal import require_eigenvectors as require_eigenvectors
from rnnscan.scan.nonlinear import explain_nonlinear_scan as explain_nonlinear_scan
from rnnscan.scan.nonlinear import nonlinear_scan as nonlinear_scan
from rnnscan.scan.nonlinear_method import Convergence as Convergence
from rnnscan.scan.nonlinear_methods import NonlinearMethodName as NonlinearMethodName
from rnnscan.scan.nonlinear_methods import nonlinear_table as nonlinear_table
from rnnscan.scan.precision import carry_dtype as carry_dtype
from rnnscan.scan.precision import matmul_precision as matmul_precision
from rnnscan.scan.selective import explain_selective_scan as explain_selective_scan
from rnnscan.scan.selective import selective_scan as selective_scan
from rnnscan.scan.selective import selective_step as selective_step
from rnnscan.scan.selective_method import DISCRETISATIONS as DISCRETISATIONS
from rnnscan.scan.selective_method import Discretisation as Discretisation
from rnnscan.scan.selective_method import kept_states as kept_states
from rnnscan.scan.selective_methods import SelectiveMethodName as SelectiveMethodName
from rnnscan.scan.selective_methods import selective_table as selective_table
from rnnscan.scan.selective_methods.stretches import selective_stretches as selective_stretches
from rnnscan.scan.split_time import AxisName as AxisName
from rnnscan.scan.split_time import at_the_end as at_the_end
from rnnscan.scan.split_time import before as before
from rnnscan.scan.split_time import entering as entering
from rnnscan.scan.split_time import from_one as from_one
from rnnscan.scan.split_time import index_and_size as index_and_size
from rnnscan.scan.split_time import steps_before as steps_before
from rnnscan.scan.target import Platform as Platform
