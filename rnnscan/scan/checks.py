"""`jax.experimental.checkify`: a nan that an operation makes is an error, as one of JAX's own."""

import types
from collections.abc import Callable, Sequence
from typing import Any

from jax.experimental import checkify
from jax.extend.core import Primitive


def tells_nans(primitive: Primitive, told: Callable[..., Sequence[Any]]) -> None:
    """Has `checkify` look for nan in what a primitive returns, under `float_checks`.

    `told(outputs, operands, **static)` are those of its outputs that are looked at.

    The table of rules has no public name, and is reached by way of the public function. Where it is
    gone, nothing is looked at, and a test fails.
    """
    names = checkify.checkify.__globals__
    rules, looks = names.get("error_checks"), names.get("nan_error_check")
    if rules is None or looks is None:
        return

    def rule(*args, **static):
        outputs = []

        def bind(*operands, **static):
            outputs.extend(primitive.bind(*operands, **static))
            return told(outputs, operands, **static)

        seen = types.SimpleNamespace(name=primitive.name, multiple_results=True, bind=bind)
        error, _ = looks(seen, *args, **static)
        return error, outputs

    rules[primitive] = rule
