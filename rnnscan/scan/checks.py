"""`jax.experimental.checkify`: a nan that an operation makes is an error, as one of JAX's own."""

import functools

from jax.experimental import checkify
from jax.extend.core import Primitive


def tells_nans(primitive: Primitive) -> None:
    """Has `checkify` look at the results of a primitive, under `float_checks` and `nan_checks`.

    Its table of rules has no public name, and is reached through its public function. Where it is
    gone, results are not looked at, and a test fails.
    """
    names = checkify.checkify.__globals__
    rules, rule = names.get("error_checks"), names.get("nan_error_check")
    if rules is not None and rule is not None:
        rules[primitive] = functools.partial(rule, primitive)
