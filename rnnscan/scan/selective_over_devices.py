"""The selective scan where time is split over devices: the state that enters a device's chunk.

A chunk acts on the state before it as one step does (`split_time.py`): by the product of its
decays, and by what it makes of no state. Each device scans its chunk for that, and once more from
the state that enters.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan import split_time
from rnnscan.scan.selective_method import ForwardOperands, Inputs
from rnnscan.scan.selective_methods.step import times
from rnnscan.scan.selective_rules import Spec, forward


def with_times(spec: Spec, operands: ForwardOperands) -> tuple[Spec, ForwardOperands]:
    """The same, of times that are spelled out."""
    inputs = operands.inputs
    spelled = inputs._replace(delta=times(spec, inputs.delta, inputs.bias), bias=None)
    return dataclasses.replace(spec, softplus=False), operands._replace(inputs=spelled)


def entering(spec: Spec, operands: ForwardOperands, over: tuple[str, ...]) -> jax.Array:
    """The state before this device's chunk."""
    inputs, reset = operands
    zeros = lax.full_like(inputs.h0, 0)
    unread = inputs._replace(c=lax.full_like(inputs.c, 0), d=None, h0=zeros)
    _, last, _ = forward(ForwardOperands(unread, reset), spec=spec)
    delta, resets = inputs.delta, None
    if reset is not None:
        resets = jnp.any(reset, axis=1)[:, None, None]
        # Before the product: no nan of a sequence that is forgotten here is in it.
        delta = jnp.where(resets, jnp.zeros((), delta.dtype), delta)
    decay = _decay(spec, unread._replace(delta=delta))
    return split_time.entering(decay, last, inputs.h0, over, reset=resets, reverse=spec.reverse)


def _decay(spec: Spec, inputs: Inputs) -> jax.Array:
    """The product of the decays of all steps."""
    if spec.signed:  # what becomes of 1
        nothing = lax.full_like(inputs.x, 0)
        inputs = inputs._replace(x=nothing, h0=lax.full_like(inputs.h0, 1))
        plain = dataclasses.replace(spec, discretisation="euler")
        return forward(ForwardOperands(inputs, None), spec=plain).last
    # That of one step of their whole duration.
    return jnp.exp(jnp.sum(inputs.delta, axis=1)[..., None] * inputs.a)
