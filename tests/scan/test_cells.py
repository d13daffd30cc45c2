"""Recurrent cells: the plain scan and the kernel against NumPy loops in float64, and every rule."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import CellWeights, cell_scan, explain_cell_scan
from rnnscan.scan.cell_kinds import CELLS
from rnnscan.scan.cell_methods import cell_table, cpu_kernel
from rnnscan.scan.cpu_kernel import library

needs_kernel = pytest.mark.skipif(
    library.why_not() is not None, reason=f"no kernel: {library.why_not()}"
)
every_kind = pytest.mark.parametrize("kind", CELLS)
every_kind_of_the_kernel = pytest.mark.parametrize("kind", cpu_kernel.KINDS)

# (batch, steps, inputs, hidden): less than a vector, more than a panel, no whole number of either;
# few rows (the drive is computed ahead) and many; more rows than threads times a block of rows.
SIZES = [(1, 30, 5, 7), (2, 3, 1, 16), (3, 1, 4, 33), (9, 6, 17, 70), (31, 4, 3, 8)]


class Flags(NamedTuple):
    valid: np.ndarray | None
    reset: np.ndarray | None


NONE = Flags(None, None)


def draw(kind, size, *, padded=False, packed=None, seed=0):
    """Weights, x, state and flags in float64, of numbers that float32 holds exactly."""
    batch, steps, inputs, hidden = size
    rng = np.random.default_rng(seed)

    def normal(*shape, std=1.0):
        return np.float64(np.float32(std * rng.standard_normal(shape)))

    gates = CELLS[kind].gates * hidden
    weights = CellWeights(
        normal(gates, inputs, std=inputs**-0.5),
        normal(gates, std=0.3),
        normal(gates, hidden, std=0.7 * hidden**-0.5),
        normal(hidden) if CELLS[kind].apart else None,
    )
    state = tuple(normal(batch, hidden) for _ in CELLS[kind].states)
    packed = padded if packed is None else packed
    valid = rng.random((batch, steps)) < 0.7 if padded else None
    reset = rng.random((batch, steps)) < 0.4 if packed else None
    return weights, normal(batch, steps, inputs), state, Flags(valid, reset)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def loop(kind, weights, x, state, flags, reverse):
    """The equations of rnnscan/scan/cell_kinds, one step after another; what `backward` reads."""
    steps, hidden = x.shape[1], weights.w_hh.shape[1]
    h, c = state[0], state[-1]
    out, tape = np.zeros((*x.shape[:2], hidden)), []
    for t in reversed(range(steps)) if reverse else range(steps):
        keep = (np.ones(len(x), bool) if flags.valid is None else flags.valid[:, t])[:, None]
        first = keep & (False if flags.reset is None else flags.reset[:, t, None])
        h, c = np.where(first, 0, h), np.where(first, 0, c)
        u, y = x[:, t] @ weights.w_ih.T + weights.bias, h @ weights.w_hh.T
        new_c, gates = c, ()
        if kind == "lstm":
            i, f, g, o = np.split(u + y, 4, -1)
            i, f, g, o = gates = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            new_c = f * c + i * g
            new = o * np.tanh(new_c)
        elif kind == "gru":
            r, z = np.split(sigmoid((u + y)[:, : 2 * hidden]), 2, -1)
            q = y[:, 2 * hidden :] + weights.bias_hn
            n = np.tanh(u[:, 2 * hidden :] + r * q)
            gates = r, z, n, q
            new = (1 - z) * n + z * h
        else:
            new = np.tanh(u + y) if kind == "tanh" else np.maximum(u + y, 0)
        tape.append((t, keep, first, h, c, gates, new, new_c))
        h, c = np.where(keep, new, h), np.where(keep, new_c, c)
        out[:, t] = h
    return out, (h, c)[: len(state)], tape


def backward(kind, weights, x, tape, d_out, d_last):
    """Backpropagation through `loop`: the gradients of the weights, of x and of the state."""
    sums = [np.zeros_like(w) for w in weights if w is not None]
    d_x, dh, dc = np.zeros_like(x), d_last[0], d_last[-1]
    for t, keep, first, h, c, gates, new, new_c in reversed(tape):
        dh = dh + d_out[:, t]
        stays = 0
        if kind == "lstm":
            i, f, g, o = gates
            tanh_c = np.tanh(new_c)
            d_new_c = dc + dh * o * (1 - tanh_c**2)
            slopes = i * (1 - i), f * (1 - f), 1 - g**2, o * (1 - o)
            parts = d_new_c * g, d_new_c * c, d_new_c * i, dh * tanh_c
            du = dy = np.concatenate([d * s for d, s in zip(parts, slopes, strict=True)], -1)
            dc = np.where(keep, d_new_c * f, dc)
        elif kind == "gru":
            r, z, n, q = gates
            dn, stays = dh * (1 - z) * (1 - n**2), dh * z
            du = np.concatenate([dn * q * r * (1 - r), dh * (h - n) * z * (1 - z), dn], -1)
            dy = np.concatenate([du[:, : -dn.shape[1]], dn * r], -1)
        else:
            du = dy = dh * (1 - new**2 if kind == "tanh" else new > 0)
        du, dy = np.where(keep, du, 0), np.where(keep, dy, 0)
        terms = du.T @ x[:, t], du.sum(0), dy.T @ h, dy[:, -h.shape[1] :].sum(0)
        for total, term in zip(sums, terms, strict=False):
            total += term
        d_x[:, t] = du @ weights.w_ih
        dh = np.where(keep, dy @ weights.w_hh + stays, dh)
        dh, dc = np.where(first, 0, dh), np.where(first, 0, dc)
    return CellWeights(*sums), d_x, (dh, dc)[: len(d_last)]


def to_multiples(x, unit):
    return unit * np.round(x / unit)


def of_dtype(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def values_and_gradients(kind, weights, x, state, flags, reverse, method="auto"):
    """h, the last state, and gradients of a linear function of both, in one program."""

    @jax.jit
    def run(weights, x, state, *cotangents):
        def values(*operands):
            return cell_scan(kind, *operands, *flags, reverse=reverse, method=method)

        out, pull = jax.vjp(values, weights, x, state)
        return out, pull(cotangents)

    return run(weights, x, state, *cotangents_of(x, state))


def cotangents_of(x, state):
    """Of h and of the last state; no two alike."""
    shape = (*x.shape[:2], state[0].shape[-1])
    slopes = np.cos(np.arange(np.prod(shape))).reshape(shape).astype(x.dtype)
    return slopes, tuple(np.sin(np.asarray(s)) for s in state)


def assert_alike(got, want, tolerance):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: {error:.1e} > {tolerance:.1e}"


@every_kind
@pytest.mark.parametrize("reverse", [False, True], ids=["onward", "reverse"])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_the_plain_scan_equals_a_loop(kind, reverse, padded):
    with jax.enable_x64(True):
        weights, x, state, flags = draw(kind, (3, 5, 2, 4), padded=padded)
        given = of_dtype((weights, x, state), jnp.float64)
        got = jax.jit(lambda *a: cell_scan(kind, *a, *flags, reverse=reverse))(*given)
    assert_alike(got, loop(kind, weights, x, state, flags, reverse)[:2], 1e-14)


@needs_kernel
@every_kind_of_the_kernel
@pytest.mark.parametrize("case", range(len(SIZES)))
def test_the_kernel_equals_a_loop(kind, case):
    reverse, padded, packed = case % 2 == 1, case % 3 != 0, case != 1
    weights, x, state, flags = draw(kind, SIZES[case], padded=padded, packed=packed, seed=case)
    *values, tape = loop(kind, weights, x, state, flags, reverse)
    want = tuple(values), backward(kind, weights, x, tape, *cotangents_of(x, state))
    got = values_and_gradients(kind, *of_dtype((weights, x, state), jnp.float32), flags, reverse)
    # Roundings of sums of `terms` products, carried over some ten steps before they fade.
    batch, steps, inputs, hidden = SIZES[case]
    terms = inputs + CELLS[kind].gates * hidden
    assert_alike(got, want, 10 * 2.0**-24 * (terms + batch * steps) ** 0.5)


@every_kind
def test_derivatives_of_both_modes_and_orders(kind):
    """Along one direction, against central differences; in the orders that the layers' law,
    forward and reverse over reverse, leaves over."""
    with jax.enable_x64(True):
        weights, x, state, flags = draw(kind, (2, 3, 2, 3), padded=True)
        if kind == "relu":  # away from the kink
            weights = weights._replace(bias=weights.bias + 4 * np.sign(weights.bias))
        point = weights, x, state
        numbers = np.random.default_rng(1)
        direction = jax.tree.map(lambda leaf: numbers.standard_normal(leaf.shape), point)

        def along(s):
            moved = jax.tree.map(lambda p, d: p + s * d, point, direction)
            h, last = cell_scan(kind, *moved, *flags)
            slopes = 1 + jnp.arange(h.size, dtype=h.dtype).reshape(h.shape) / h.size
            return jnp.sum(jnp.sin(h * slopes)) + sum(jnp.sum(jnp.cos(part)) for part in last)

        def forward(s):
            return jax.jvp(along, (s,), (jnp.ones_like(s),))[1]

        @jax.jit
        def values(s):
            second, first_again = jax.grad(forward)(s), jax.grad(along)(s)
            first, second_again = jax.jvp(forward, (s,), (jnp.ones_like(s),))
            return jnp.stack([along(s)] * 2 + [first, first_again, second, second_again])

        step = 1e-5
        below, here, above = (np.asarray(values(np.float64(s))) for s in (-step, 0.0, step))
    np.testing.assert_allclose(here[2:], (above - below)[:4] / (2 * step), rtol=1e-6, atol=1e-6)


def _gradient(kind, weights, x, state, flags):
    def loss(*operands):
        h, last = cell_scan(kind, *operands, *flags)
        return jnp.sum(h**2) + sum(map(jnp.sum, last))

    return jax.grad(loss, (0, 1, 2))(weights, x, state)


_one = jax.jit(_gradient, static_argnums=0)  # one program, whatever is mapped


@every_kind
@pytest.mark.parametrize("mapped", ["x", "weights", "both"])
def test_vmap_equals_one_call_each(kind, mapped):
    *given, flags = draw(kind, (2, 3, 2, 5), padded=True)
    given = jax.tree.map(np.float32, given)

    def gradient(weights, x, state):
        return _gradient(kind, weights, x, state, flags)

    axes = {"x": (None, 0, 0), "weights": (0, None, None), "both": (0, 0, None)}[mapped]
    pairs = [
        part if axis is None else jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf]), part)
        for part, axis in zip(given, axes, strict=True)
    ]
    got = jax.jit(jax.vmap(gradient, axes))(*pairs)
    for i in range(2):
        each = [
            part if axis is None else jax.tree.map(lambda leaf, i=i: leaf[i], part)
            for part, axis in zip(pairs, axes, strict=True)
        ]
        assert_alike(jax.tree.map(lambda leaf, i=i: leaf[i], got), _one(kind, *each, flags), 1e-5)


@needs_kernel
def test_where_the_kernel_is_called():
    def values(*operands):
        return cell_scan("lstm", *operands)

    gradient = jax.grad(lambda *operands: jnp.sum(values(*operands)[0]))

    def text(function, dtype, platform):
        given = of_dtype(draw("lstm", (2, 3, 2, 5))[:3], dtype)
        return jax.jit(function).trace(*given).lower(lowering_platforms=(platform,)).as_text()

    forward, backward = "@rnnscan_cell_forward", "@rnnscan_cell_backward"
    assert forward in text(values, jnp.float32, "cpu")
    assert forward not in text(values, jnp.float32, "cuda")
    both = text(gradient, jnp.float32, "cpu")
    assert forward in both
    assert backward in both
    assert "while" not in both
    with jax.enable_x64(True):
        assert forward not in text(values, jnp.float64, "cpu")
    # An exported program must run where rnnscan is not installed.
    given = of_dtype(draw("lstm", (2, 3, 2, 5))[:3], jnp.float32)
    assert forward not in jax.export.export(jax.jit(values))(*given).mlir_module()


@every_kind
def test_no_steps_return_the_state_and_without_jit_all_is_the_same(kind):
    weights, x, state, flags = draw(kind, (2, 3, 2, 5), padded=True)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)
    h, last = cell_scan(kind, weights, x[:, :0], state, *(f[:, :0] for f in flags))
    assert h.shape == (2, 0, 5)
    assert_alike(last, state, 0)
    with jax.disable_jit():
        eager = cell_scan(kind, weights, x, state, *flags)
    compiled = jax.jit(lambda *a: cell_scan(kind, *a))(weights, x, state, *flags)
    assert_alike(eager, compiled, 1e-6)


@every_kind_of_the_kernel
def test_large_and_nan_inputs(kind):
    """Activations at their ends, and a nan that stays in its own sequence and its own future.

    Where large products cancel, a gate is not at its end, and what they were rounded by shows:
    2^-24 of 7,000 in a gate of slope 0.01 moves h by 4e-6, whatever computes it. So the drive
    W x + b has few enough digits here that float32 holds its products and sums exactly.
    """
    weights, x, state, _ = draw(kind, (3, 4, 2, 20))
    weights = weights._replace(w_ih=to_multiples(weights.w_ih, 2**-8))
    weights = weights._replace(bias=to_multiples(weights.bias, 2**-4))
    x[0] = to_multiples(1e4 * x[0], 2**4)
    drive = x[0] @ weights.w_ih.T + weights.bias
    assert np.array_equal(np.float32(drive), drive)
    x[1, 2] = np.nan
    with np.errstate(over="ignore"):  # exp, of a sigmoid that is zero
        want, *_ = loop(kind, weights, x, state, NONE, reverse=False)
    given = of_dtype((weights, x, state), jnp.float32)
    h, _ = jax.jit(lambda *a: cell_scan(kind, *a))(*given)
    assert np.isfinite(h[0]).all()
    assert np.isnan(h[1, 2:]).all()
    assert np.isfinite(h[1, :2]).all()
    assert_alike((h[0], h[2]), (want[0], want[2]), 1e-6)


@pytest.mark.parametrize("method", cell_table.names)
def test_empty_batches_are_served_by_every_method(method):
    weights, x, state, _ = draw("gru", (4, 5, 2, 3))
    weights, x, state = of_dtype((weights, x, state), jnp.float32)

    def run(x, h):
        return cell_scan("gru", weights, x, (h,), method=method)[0]

    assert run(x[:0], state[0][:0]).shape == (0, 5, 3)
    mapped = jax.vmap(jax.value_and_grad(lambda *a: jnp.sum(run(*a)), (0, 1)))
    _, gradients = jax.jit(mapped)(x[:0, None], state[0][:0, None])
    assert [g.shape for g in gradients] == [(0, 1, 5, 2), (0, 1, 3)]


def test_what_is_not_valid_is_not_looked_at():
    weights, x, state, flags = draw("lstm", (4, 5, 2, 3), padded=True)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)
    bad = jnp.where(flags.valid[..., None], x, jnp.nan)
    assert np.isnan(bad).any()
    clean, got = (_one("lstm", weights, inputs, state, flags) for inputs in (x, bad))
    jax.tree.map(np.testing.assert_array_equal, got, clean)


@every_kind
@pytest.mark.parametrize("reverse", [False, True], ids=["onward", "reverse"])
def test_nothing_passes_a_reset(kind, reverse):
    """inf and nan in the state, in the inputs on the other side, and in what comes back from it."""
    weights, x, state, _ = draw(kind, (2, 6, 2, 5))
    given = of_dtype((weights, x, state), jnp.float32)
    slopes, ends = of_dtype(cotangents_of(x, state), jnp.float32)
    before = np.s_[:, 3:] if reverse else np.s_[:, :3]
    after = np.s_[:, :3] if reverse else np.s_[:, 3:]
    reset = np.zeros((2, 6), bool)
    reset[:, 2 if reverse else 3] = True

    @jax.jit
    def run(reset, weights, x, state, slopes, ends):
        def scan(*operands):
            return cell_scan(kind, *operands, reset=reset, reverse=reverse)

        out, pull = jax.vjp(scan, weights, x, state)
        return out, pull((slopes, ends))

    (h, last), (_, d_x, d_state) = run(reset, *given, slopes, ends)
    for bad in (np.nan, np.inf):
        first = tuple(jnp.full_like(s, bad) for s in given[2])
        passed, back = run(reset, *given[:1], given[1].at[before].set(bad), first, slopes, ends)
        assert_alike((passed[0][after], passed[1]), (h[after], last), 0)
        assert_alike(back[1][after], d_x[after], 0)
        passed, back = run(
            reset,
            *given[:1],
            given[1].at[after].set(bad),
            given[2],
            slopes.at[after].set(bad),
            tuple(jnp.full_like(e, bad) for e in ends),
        )
        assert_alike(passed[0][before], h[before], 0)
        assert_alike((back[1][before], back[2]), (d_x[before], d_state), 0)

    # A given state that is dropped at once: no gradient is nan, that of the weights too.
    reset = reset.copy()
    reset[:, -1 if reverse else 0] = True
    _, clean = run(reset, *given[:2], tuple(map(jnp.zeros_like, given[2])), slopes, ends)
    _, found = run(
        reset, *given[:2], tuple(jnp.full_like(s, jnp.nan) for s in given[2]), slopes, ends
    )
    assert_alike(found, clean, 0)


@every_kind
def test_the_tangent_of_a_cell_is_the_derivative_of_its_step(kind):
    """What the files of cells state twice."""
    cell, numbers = CELLS[kind], np.random.default_rng(3)

    def normal():
        return numbers.standard_normal((2, 3))

    with jax.enable_x64(True):
        z, dz = ([normal() for _ in range(cell.gates)] for _ in range(2))
        state, dstate = (tuple(normal() for _ in cell.states) for _ in range(2))
        q, dq = (normal(), normal()) if cell.apart else (None, None)
        new, want = jax.jvp(lambda *a: cell.step(*a)[0], (z, q, state), (dz, dq, dstate))
        kept = cell.step(z, q, state)[1]
        assert len(kept) == cell.kept
        got = cell.tangent(kept, state, new, dz, dq, dstate)
    assert_alike(got, want, 1e-14)


@needs_kernel
def test_both_methods_by_name_and_what_auto_takes():
    weights, x, state, flags = draw("gru", (2, 3, 2, 5), padded=True)
    given = of_dtype((weights, x, state), jnp.float32)
    programs = {
        method: jax.jit(lambda *a, m=method: cell_scan("gru", *a, *flags, method=m))
        for method in ("scan", "native", "auto")
    }
    scan, native, auto = (program(*given) for program in programs.values())
    assert_alike(scan, native, 1e-6)
    jax.tree.map(np.testing.assert_array_equal, native, auto)
    for method, calls in (("scan", 0), ("native", 1), ("auto", 1)):
        text = programs[method].lower(*given).as_text()
        assert text.count("@rnnscan_cell_forward") == calls
    for platform, chosen in (("cpu", "native"), ("cuda", "scan")):
        rows = explain_cell_scan("gru", *given, *flags, platform=platform)
        assert [row.method for row in rows if row.chosen] == [chosen]


@needs_kernel
def test_a_named_kernel_says_where_it_cannot_serve():
    weights, x, state, _ = draw("tanh", (2, 3, 2, 5))
    given = of_dtype((weights, x, state), jnp.float32)

    def native(*operands):
        return cell_scan("tanh", *operands, method="native")

    with jax.enable_x64(True), pytest.raises(ValueError, match=r"float32, not in float64"):
        native(*of_dtype((weights, x, state), jnp.float64))
    with pytest.raises(ValueError, match="cannot serve this call: it is a kernel for CPUs"):
        jax.jit(native).trace(*given).lower(lowering_platforms=("cuda",))
    pair = jax.tree.map(lambda w: jnp.stack([w, w]), given[0])
    with pytest.raises(ValueError, match="its weights are mapped"):
        jax.vmap(native, (0, None, None))(pair, *given[1:])
    rows = {row.method: row for row in explain_cell_scan("tanh", *given, platform="tpu")}
    assert not rows["native"].available
    assert rows["scan"].chosen


def test_any_batch_axes_lists_and_halves():
    weights, x, state, flags = draw("lstm", (6, 3, 2, 5), padded=True)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)
    want, (want_h, want_c) = cell_scan("lstm", weights, x, state, *flags)
    folded = [jnp.reshape(leaf, (2, 3, *leaf.shape[1:])) for leaf in (x, *state)]
    lists = [f.reshape(2, 3, 3).tolist() for f in flags]
    h, (last_h, last_c) = cell_scan("lstm", weights[:3], folded[0], folded[1:], *lists)
    for got, whole in ((h, want), (last_h, want_h), (last_c, want_c)):
        np.testing.assert_array_equal(got.reshape(whole.shape), whole)
    # One sequence is another program on a CPU: without a batch its products are sums.
    one, _ = cell_scan("lstm", weights, x[0], [part[0] for part in state], *(f[0] for f in flags))
    assert_alike(one, want[0], 1e-6)

    halves = of_dtype((weights, x, state), jnp.bfloat16)
    wide, _ = cell_scan("lstm", *of_dtype(halves, jnp.float32))
    half, (last, _) = cell_scan("lstm", *halves)
    assert half.dtype == last.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, wide.astype(jnp.bfloat16))


W, B, U = np.ones((8, 3), "float32"), np.ones(8, "float32"), np.ones((8, 2), "float32")
X, H = np.ones((4, 3), "float32"), np.ones(2, "float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("elman", (W, B, U), X, (H, H)), r"kind: got 'elman', expected one of 'tanh', 'relu'"),
        (("lstm", (W, B), X, (H, H)), r"weights: got a tuple of 2, expected .* w_ih, bias, w_hh"),
        (
            ("lstm", (W, B, U), X, H),
            r"state: got one array of shape \(2,\), expected a tuple of h, c",
        ),
        (("lstm", (W, B, U), X, (H,)), r"state: got a tuple of 1, expected a tuple of h, c"),
        (("tanh", (W, B, U), X, H), r"state: got one array .*, expected a tuple of h: \(h,\)"),
        (("lstm", (W, U, B), X, (H, H)), r"weights are w_ih \(G H, I\), bias .*, w_hh \(G H, H\)"),
        (("LSTM", (W, B, U), X, (H, H)), r"kind: got 'LSTM', .*; did you mean 'lstm'\?"),
        (("lstm", (W, B, U), X[:, :2], (H, H)), r"weights.w_ih: got shape \(8, 3\), exp.*\(8, 2\)"),
        (("lstm", (W, B, U), X, (H, H[:1])), r"state\[1\]: got shape \(1,\), expected \(2,\)"),
        (("lstm", (W, B, U), X[0], (H, H)), r"x, weights.w_hh: got shapes \(3,\)"),
        (("lstm", (W, B, U), X, (H, H), [True]), r"valid: got shape \(1,\), expected \(4,\)"),
        (("lstm", (W, B, U), X, (H, H), None, [[True]]), r"reset: got shape \(1, 1\), exp"),
        ((["lstm"], (W, B, U), X, (H, H)), r"kind: got \['lstm'\], expected one of"),
        (("gru", (W, B, U), X, (H,)), r"weights: .* w_ih, bias, w_hh, bias_hn"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        cell_scan(*arguments)
    with pytest.raises(ValueError, match=message):
        explain_cell_scan(*arguments)


def test_dtypes_and_methods_that_do_not_exist_are_refused():
    with pytest.raises(TypeError, match=r"x: got dtype int32 and shape \(4, 3\)"):
        cell_scan("lstm", (W, B, U), X.astype("int32"), (H, H))
    for scan in (cell_scan, explain_cell_scan):
        with pytest.raises(TypeError, match=r"valid: got 'abc', expected bool"):
            scan("lstm", (W, B, U), X, (H, H), "abc")
    with pytest.raises(TypeError, match="complex64 after promotion"):
        cell_scan("lstm", *jax.tree.map(lambda x: x.astype("complex64"), ((W, B, U), X, (H, H))))
    with pytest.raises(ValueError, match=r"method: got 'neuton', .*; did you mean 'newton'"):
        cell_scan("lstm", (W, B, U), X, (H, H), method="neuton")
