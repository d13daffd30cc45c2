"""`jax.export` with sizes that are symbols: a method serves, or says which size it has to know."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from rnnscan import (
    explain_cell_scan,
    explain_linear_scan,
    explain_matrix_scan,
    explain_nonlinear_scan,
    explain_selective_scan,
)
from rnnscan.scan import devices
from rnnscan.scan.cells import cell_scan_with_convergence
from tests.scan.test_empty import CALLS, PLATFORMS, cell, nonlinear


def specs(shapes):
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def made(name, b, T, n):
    """A call, and its operands; of one problem it is mapped over a batch."""
    make, options = CALLS[name]
    f, (first, *rest) = make(*options, b, T, n)
    if make is nonlinear:
        f, rest = jax.vmap(f, (None, 0, 0)), [(b, *shape) for shape in rest]
    return f, specs([first, *rest])


def exported(f, given, platform):
    def loss(*args):
        return sum(jnp.sum(y) for y in jax.tree.leaves(f(*args)))

    program = export.export(jax.jit(jax.grad(loss)), platforms=[platform])(*given)
    assert program.out_avals[0].shape == given[0].shape


# For steps whose number is not known there is a loop alone; of a chunk of them, any method serves.
LOOPS = ("auto", "scan", "sequential", "stretches")
ANY_LENGTH = [n for n in CALLS if n.endswith(LOOPS) or n.startswith("selective")]
EXPORTABLE = [n for n in CALLS if not n.endswith("native")]


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("name", EXPORTABLE)
def test_every_method_serves_or_says_what_it_must_know(name, platform):
    b, T, _ = export.symbolic_shape("b, t, n")
    if (name, platform) == ("matrix-diagonal", "cuda"):
        with pytest.raises(ValueError, match=r"cannot serve .*jax.export.* but for CPUs"):
            exported(*made(name, 3, 70, 2), platform)
        return
    exported(*made(name, b, 70, 2), platform)
    for batch in (b, 3):
        call = *made(name, batch, T, 2), platform
        if name in ANY_LENGTH:
            exported(*call)
        else:
            with pytest.raises(ValueError, match=r"cannot serve .* the length is a symbol"):
                exported(*call)


@pytest.mark.parametrize("name", [n for n in CALLS if n.endswith("native")])
def test_a_kernel_is_in_no_exported_program(name):
    with pytest.raises(ValueError, match=r"cannot serve .*( exported program | no such kernel)"):
        exported(*made(name, 3, 70, 2), "cpu")


@pytest.mark.parametrize("name", ["nonlinear-auto", "tanh-newton", "tanh-sequential"])
def test_the_size_of_a_state_must_be_known_where_it_is_taken_apart(name):
    b, T, n = export.symbolic_shape("b, t, n")
    expected = r"h0: got shape \(n,\)" if name == "nonlinear-auto" else r"hidden size is a symbol"
    with pytest.raises(ValueError, match=expected):
        exported(*made(name, b, T, n), "cpu")
    exported(*made("tanh-auto", b, T, n), "cpu")


def test_a_certificate_names_the_size_that_it_must_know():
    b, T, n = export.symbolic_shape("b, t, n")
    *weights, x, h = specs(cell("tanh", "auto", b, T, n)[1])

    def run(weights, x, h):
        return cell_scan_with_convergence("tanh", weights, x, (h,))[2]

    with pytest.raises(ValueError, match=r"weights.w_hh: got shape \(n, n\).* use cell_scan"):
        jax.eval_shape(run, weights, x, h)
    *weights, x, h = specs(cell("tanh", "auto", b, T, 2)[1])
    assert jax.eval_shape(run, weights, x, h).converged.shape == (b,)


@pytest.mark.parametrize("kind", ["", *devices.DEVICES])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_explanations_of_symbols(platform, kind, monkeypatch):
    monkeypatch.setattr(devices, "kind_on", lambda platform: kind)
    b, T, n = export.symbolic_shape("b, t, n")
    for batch, steps, size in [(b, 2000, 3), (2, T, 3), (b, T, 3), (2, 2000, n), (b, T, n)]:
        x, xb, A, weights, w_ih = specs(
            [(steps, batch, size), (batch, steps, size), (size, size), (size, 2), (size,)]
        )
        varying, two, state = specs([(steps, batch, size, size), (batch, steps, 2), (batch, size)])
        rows = [
            explain_linear_scan(x, x, platform=platform),
            explain_linear_scan(w_ih, x, platform=platform),
            explain_matrix_scan(A, x, platform=platform),
            explain_matrix_scan(varying, x, platform=platform),
            explain_selective_scan(xb, xb, weights, two, two, platform=platform),
            explain_cell_scan("tanh", (weights, w_ih, A), two, (state,), platform=platform),
        ]
        if isinstance(size, int):
            *_, h0, xs = specs([(size,), (steps, size)])
            rows.append(explain_nonlinear_scan(lambda h, x: h[::-1] + x, h0, xs, platform=platform))
        assert all(row.available for table in rows for row in table if row.chosen)
