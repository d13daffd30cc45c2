"""`blocked` beyond the laws: how time is cut, what the program holds, how large it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import linear_scan
from rnnscan.scan.linear_methods.blocked import chunk_length
from tests.scan.cases import Call
from tests.scan.reference import unit_roundoff
from tests.scan.test_laws import (
    assert_gradients_within,
    assert_within,
    differentiable,
    primals,
    vjp,
)


def blocked(a, b):
    return linear_scan(a, b, method="blocked")


def test_chunks_divide_the_length_where_they_can():
    lengths = (1, 2, 3, 4, 5, 7, 13, 15, 1024, 20_001, 1_000_000, 1_000_003)
    chunks = (1, 2, 3, 2, 2, 2, 3, 3, 32, 59, 64, 64)
    assert tuple(chunk_length(T, 16) for T in lengths) == chunks


def test_chunks_are_longer_where_the_batch_is_wide():
    assert chunk_length(4096, 2**20) == 1024
    assert chunk_length(4096, 2**22) == 4096


@pytest.mark.parametrize(
    "call",
    [
        Call(b=(2, 3), a=(2, 3), h0=(3,), reverse=True),
        Call(b=(13, 2), a=(13, 2), h0=(2,), reverse=True),
        Call(b=(2, 13, 2), a=(13, 1), h0=(), axis=1, reset=(2, 13, 1), dtype="bfloat16"),
    ],
    ids=str,
)
def test_lengths_around_a_multiple_of_the_chunk(call):
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset), unit_roundoff(call.dtype)
    f = differentiable(call, "blocked", reset)
    h, gradients = vjp(f, primals(a, b, h0), jnp.asarray(g))
    assert_within(h, reference.states(), reference.states_bound(u))
    assert_gradients_within(gradients, reference, g, call.dtype)


@pytest.mark.parametrize("T", [2**16, 65_539], ids=["even", "ragged"])
def test_nothing_of_full_size_is_made(T):
    """Forward and backward: the result apart, the largest arrays are those of the tree."""
    a, b = jnp.full((16,), 0.9), jnp.ones((T, 16))

    def backward(a, g):
        return jax.linear_transpose(lambda b: blocked(a, b), b)(g)

    for f in (blocked, backward):
        memory = jax.jit(f).lower(a, b).compile().memory_analysis()
        assert memory.temp_size_in_bytes < b.nbytes / 8


def test_the_program_grows_by_the_levels_of_its_tree_alone():
    def size(T):
        gradient = jax.grad(lambda a, b: jnp.sum(blocked(a, b)), (0, 1))
        x = jax.ShapeDtypeStruct((T, 2), jnp.float32)
        return jax.jit(gradient).lower(x, x).as_text().count("\n")

    assert 512 // chunk_length(512, 2) == 1024 // chunk_length(1024, 2) == 32
    assert size(512) == size(1024)
    assert size(2**20) - size(2**16) == size(2**16) - size(2**12)


def test_an_infinite_decay_meets_no_zero_that_a_loop_has_not():
    a = np.full(13, 0.5, np.float32)
    a[[0, -1]] = np.inf

    def both(method):
        h, pull = jax.vjp(lambda b: linear_scan(a, b, 1.0, method=method), jnp.ones(13))
        return h, *pull(jnp.ones(13))

    for got, want in zip(both("blocked"), both("sequential"), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
