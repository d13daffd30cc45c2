"""`diagonal`: in the eigenvectors of a constant A the components do not mix.

    A = V diag(l) V^-1,    h_t = V m_t,    m_t = l * m_{t-1} + V^-1 b_t,    m_{-1} = V^-1 h0

So one elementwise scan (complex, by whatever `linear_scan` would choose) between two large
products: for real A and one state 4 T n^2 multiplications, a real and an imaginary part each way,
and some 25 n^3 once for V. Span: that of the elementwise scan. A real A has conjugate pairs, whose
sum is real: h is the real part.

Exactness. The l and V that are found belong to a matrix at a distance of about u |A| cond(V) from A
(Bauer & Fike 1960), and b passes through V^-1 and V, each of which may enlarge a rounding of its
input; so the error has the factor cond(V) = |V| |V^-1| where other methods have none. For normal A
(symmetric, orthogonal) cond(V) = 1; for a random A of width n it is of the order of n; for a
defective A (a Jordan block) there is no V at all. Therefore `auto` never chooses this method, and a
concrete A is refused where cond(V) u exceeds `LARGEST_LOSS`. An inf or nan in one component of b is
one in all components of its h.

On a CPU, JAX calls LAPACK, whose threads compete with XLA's: on two cores 17 ms were seen for the
eigenvectors of a 32 x 32 matrix that take 0.2. OPENBLAS_NUM_THREADS=1 avoids that.

Gradients need no derivative of V or l, which JAX does not have: the three maps above every method
(`linear_rules.py`) are evaluated each with its own eigenvectors, those of A' backwards, and the
gradient of A is an outer product of adjoint and state.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from rnnscan.scan.derived_maps import derived_maps
from rnnscan.scan.linear_lowering import Spec
from rnnscan.scan.linear_method import LinearCase, LinearMethod, ScanOperands
from rnnscan.scan.linear_methods import linear_table
from rnnscan.scan.linear_rules import recurrence
from rnnscan.scan.precision import carry_dtype
from rnnscan.scan.product import elementwise
from rnnscan.scan.time_axis import where

# The largest cond(V) * u, about the relative error: three decimal digits are left.
LARGEST_LOSS = 2.0**-10


def evaluate(product, time, a, b, h0, reset):
    """h for a constant A."""
    values, vectors = jnp.linalg.eig(a)
    inverse = jnp.linalg.inv(vectors)

    def into_modes(x):
        if jnp.iscomplexobj(x):
            return product.apply(inverse, x)
        return lax.complex(product.apply(inverse.real, x), product.apply(inverse.imag, x))

    drive = into_modes(b)
    state = lax.full_like(drive, 0, shape=(1,) * drive.ndim) if h0 is None else into_modes(h0)
    spec = Spec(elementwise, linear_table, "auto", time.axis, time.reverse)
    modes = recurrence(spec, ScanOperands(values, drive, state, reset))
    if jnp.iscomplexobj(b):
        h = product.apply(vectors, modes)
    else:
        h = product.apply(vectors.real, modes.real) - product.apply(vectors.imag, modes.imag)
    return where(reset, b, h)  # exactly, not by way of V


def condition_number(A: ArrayLike) -> float:
    """cond(V) in the 2-norm, on the host in double precision; the largest of several A.

    inf where A has an inf or nan; some 1e16 where A is defective.
    """
    A = np.asarray(A)
    A = A.astype(np.complex128 if jnp.iscomplexobj(A) else np.float64)
    if A.size == 0:
        return 1.0
    if not np.isfinite(A).all():
        return float("inf")
    return float(np.max(np.linalg.cond(np.linalg.eig(A)[1])))


def is_concrete(A) -> bool:
    """Whether the numbers of A can be looked at."""
    if isinstance(A, Tracer) or not hasattr(A, "__array__"):
        return False
    return getattr(A, "is_fully_addressable", True)


def why_not_this(condition: float, dtype: np.dtype) -> str | None:
    """Why not for an A of this condition number."""
    u = float(jnp.finfo(carry_dtype(dtype)).eps) / 2
    if condition * u <= LARGEST_LOSS:
        return None
    return (
        f"the eigenvectors of A have condition number {condition:.3g}, which times the unit "
        f"roundoff {u:.2g} of {carry_dtype(dtype).name} is {condition * u:.2g}, expected at most "
        f"{LARGEST_LOSS:.2g}: use another method, or a wider dtype"
    )


def require_eigenvectors(A, dtype: np.dtype) -> None:
    """Refuse a constant A with hardly any, if its numbers can be looked at."""
    if is_concrete(A) and (reason := why_not_this(condition_number(A), dtype)):
        raise ValueError(f"method='diagonal' cannot serve this call: {reason}")


def why_not(case: LinearCase) -> str | None:
    if not case.constant:
        return "A varies in time, and its eigenvectors with it"
    if case.symbolic:
        return "the length is a symbol (`jax.export`)"
    if case.platform not in ("cpu", "cuda", "rocm"):
        return "JAX has eigenvectors of a general matrix on CPUs and GPUs alone"
    if case.exported and case.platform != "cpu":
        return "JAX stores no program with eigenvectors (`jax.export`) but for CPUs"
    return None


_maps = derived_maps(evaluate)
method = LinearMethod(
    name="diagonal",
    summary="an elementwise scan among the eigenvectors of A; its error has their condition number",
    forward=_maps.forward,
    tangent=_maps.tangent,
    transpose=_maps.transpose,
    why_not=why_not,
)
