"""A program of JAX, compared by what it does.

JAX compares jaxprs by identity. What is compiled for one would be compiled again whenever the same
function is traced again, at every call outside of `jit`. Here two are equal if they consist of the
same operations with the same parameters, whatever their variables are called; arrays that are part
of them are the same only if they are one and the same array.
"""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun


class Program:
    """A jaxpr without constants (jitted functions within it keep theirs).

    `derivative`: its tangent, traced, which says what a jaxpr does not say of itself: the rules of
    parts that have a derivative of their own.
    """

    def __init__(self, jaxpr: Jaxpr, derivative: ClosedJaxpr):
        self.jaxpr = jaxpr
        # Told by identity, so that they must live; a tracer lives as long as it must.
        self._constants = tuple(c for c in derivative.consts if not isinstance(c, Tracer))
        constants = tuple(map(id, derivative.consts))
        self._meaning = _meaning(jaxpr), _meaning(derivative.jaxpr), constants
        self._hash = hash(self._meaning)

    def __call__(self, *operands: jax.Array) -> list[jax.Array]:
        return evaluated(self.jaxpr, *operands)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._meaning == other._meaning


def opened(closed: ClosedJaxpr) -> Jaxpr:
    """The jaxpr, with its constants as its first inputs."""
    jaxpr: Any = closed.jaxpr
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    emptied = {"consts": []} if hasattr(jaxpr, "with_consts") else {}  # JAX 0.12: it has them
    names = jaxpr.debug_info.with_unknown_names()
    return jaxpr.replace(constvars=[], invars=inputs, debug_info=names, **emptied)


def evaluated(jaxpr: Jaxpr, *operands: jax.Array) -> list[jax.Array]:
    """What a jaxpr without constants gives."""
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))(*operands)


def operations(jaxpr: Jaxpr) -> set[str]:
    """The names of all of them, inner ones too."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(value):
                names |= operations(getattr(value, "jaxpr", value))
    return names


def _is_program(value: Any) -> bool:
    return isinstance(value, (ClosedJaxpr, Jaxpr))


def _meaning(jaxpr: Jaxpr) -> tuple:
    """Its operations, with variables numbered as they come."""
    numbers = {}

    def known(v):
        if isinstance(v, Literal):
            return v.aval, np.asarray(v.val).tobytes()
        return numbers.setdefault(v, len(numbers))

    def new(v):
        return known(v), v.aval

    inputs = tuple(map(new, (*jaxpr.constvars, *jaxpr.invars)))  # constants of inner ones
    operations = tuple(
        (
            equation.primitive,
            equation.ctx,
            tuple(map(known, equation.invars)),
            tuple(map(new, equation.outvars)),
            tuple((name, _value(name, value)) for name, value in sorted(equation.params.items())),
        )
        for equation in jaxpr.eqns
    )
    return inputs, operations, tuple(map(known, jaxpr.outvars))


def _value(name: str, value: Any) -> Any:
    """A parameter of an operation."""
    if _is_program(value):
        inner: Any = getattr(value, "jaxpr", value)
        constants = tuple(map(id, getattr(value, "consts", ())))  # the program keeps them
        return _meaning(inner), constants
    if name == "jvp_jaxpr_fun":  # made at each trace; see `derivative`
        return None
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_value(name, part) for part in value)
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value
