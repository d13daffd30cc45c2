"""Whether a program mixes the numbers of its arrays: read off its operations, once.

A step whose every operation on the state is elementwise has a Jacobian of small blocks, one for
each place in the arrays, instead of a dense one. What is not known to be elementwise is taken to
mix.
"""

from collections.abc import Sequence

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# fmt: off
ELEMENTWISE = frozenset((
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2",
    "atanh", "broadcast_in_dim", "cbrt", "ceil", "clamp", "complex", "conj",
    "convert_element_type", "copy", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv",
    "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "imag", "integer_pow", "is_finite",
    "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg",
    "nextafter", "not", "optimization_barrier", "or", "pow", "pvary", "real",
    "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt",
    "square", "stop_gradient", "sub", "tan", "tanh", "xor",
))
# fmt: on
# Operations that are programs themselves, and under what name they hold them.
CALLS = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
}


def is_elementwise(program: Jaxpr, states: Sequence[bool], shape: tuple[int, ...]) -> bool:
    """Whether outputs depend on those inputs that are `states`, of this shape, place by place."""
    return _reached(program, states, shape) is not None


def _reached(
    program: Jaxpr, states: Sequence[bool], shape: tuple[int, ...]
) -> tuple[bool, ...] | None:
    """Which outputs a state reaches, if by elementwise operations alone."""
    reached = {v for v, is_state in zip(program.invars, states, strict=True) if is_state}

    def is_reached(v) -> bool:
        return not isinstance(v, Literal) and v in reached

    for equation in program.eqns:
        given = tuple(map(is_reached, equation.invars))
        if not any(given):
            continue
        name = equation.primitive.name
        if name in CALLS:
            inner = equation.params[CALLS[name]]
            inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            outcome = _reached(inner, given, shape)
            if outcome is None:
                return None
        elif name in ELEMENTWISE:
            outcome = (True,) * len(equation.outvars)
        else:
            return None
        ours = [v for v, yes in zip(equation.outvars, outcome, strict=True) if yes]
        if any(getattr(v.aval, "shape", None) != shape for v in ours):
            return None
        reached |= set(ours)
    return tuple(map(is_reached, program.outvars))
