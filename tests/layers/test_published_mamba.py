"""`selective_scan`, `SelectiveSSM` and `Mamba` against what others publish.

Values, states and every gradient, of more than sixty random configurations.

Four or more draws of parameters share each group of sizes, so that they share programs too.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import selective_scan
from rnnscan.layers import Mamba, SelectiveSSM
from tests.layers import published_mamba as published

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
DT = [(1e-3, 0.1), (1e-4, 1e-2), (0.01, 2.0), (0.1, 0.2), (1.0, 4.0), (1e-2, 1e-2)]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of one group of random configurations."""

    features: int
    time: int
    state: int = 4
    dt_rank: int | None = None
    batch: int = 2
    width: int = 4
    expand: int = 2


MAMBA = [
    Sizes(features=5, time=19),
    Sizes(features=17, time=6, state=3, width=2, expand=1, batch=1),
    Sizes(features=4, time=2, state=1, dt_rank=3, width=4),  # shorter than its window
    Sizes(features=3, time=70, state=2, dt_rank=2, width=1, expand=3, batch=1),
]
SSM = [
    Sizes(features=6, time=23, state=5),
    Sizes(features=3, time=130, state=2, dt_rank=2),
    Sizes(features=18, time=1, state=16, batch=3),
]


def drawn(make, sizes):
    """Layers, one for each range of dt, stacked; all parameters moved from where `init` has them.

    In float32, also where they are then computed with in float64.
    """
    rng = np.random.default_rng(sizes.features)
    layers = []
    for dt_min, dt_max in DT:
        layer = make(jax.random.key(len(layers)), sizes, dt_min, dt_max)
        leaves, structure = jax.tree.flatten(layer)
        moved = [
            np.asarray(leaf) + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)
            for leaf in leaves
        ]
        layers.append(structure.unflatten(moved))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def normal(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def with_gradients(f):
    """(f(p, x), gradients of p and x) for every p of a stack, as one program."""

    def both(p, x, cotangent):
        out, pull = jax.vjp(f, p, x)
        return out, pull(cotangent)

    return jax.jit(jax.vmap(both))


def assert_same(ours, theirs, layers, x, cotangent):
    """Theirs in float64 of the same numbers; errors against the largest of each array."""

    def wide(tree):
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)

    given = layers, x, cotangent
    found = {"float32": with_gradients(ours)(*given)}
    with jax.enable_x64(True):
        found["float64"] = with_gradients(ours)(*wide(given))
        wanted = with_gradients(theirs)(*wide(given))
    wanted = jax.tree.leaves_with_path(wanted)
    for dtype, result in found.items():
        for (path, want), got in zip(wanted, jax.tree.leaves(result), strict=True):
            got, want = np.asarray(got), np.asarray(want)
            assert got.dtype == dtype
            assert got.shape == want.shape
            axes = tuple(range(1, got.ndim))
            error = np.abs(got.astype(np.float64) - want).max(axes, initial=0)
            scale = np.abs(want).max(axes, initial=1e-30)
            where = f"{dtype}, {jax.tree_util.keystr(path)}: {error / scale}"
            assert (error <= TOLERANCE[dtype] * scale).all(), where


@pytest.mark.parametrize("sizes", MAMBA, ids=str)
def test_mamba(sizes):
    def make(key, sizes, dt_min, dt_max):
        return Mamba.init(
            key,
            sizes.features,
            expand=sizes.expand,
            state_size=sizes.state,
            conv_width=sizes.width,
            dt_rank=sizes.dt_rank,
            dt_min=dt_min,
            dt_max=dt_max,
        )

    rng = np.random.default_rng(1)
    layers, inner = drawn(make, sizes), sizes.expand * sizes.features
    shape = (len(DT), sizes.batch, sizes.time, sizes.features)
    window = (len(DT), sizes.batch, sizes.width - 1, inner)
    h = (len(DT), sizes.batch, inner, sizes.state)
    cotangent = normal(rng, shape), (normal(rng, window), normal(rng, h))
    x = normal(rng, shape)
    assert_same(lambda layer, x: layer(x), published.mamba, layers, x, cotangent)


@pytest.mark.parametrize("sizes", SSM, ids=str)
def test_selective_ssm(sizes):
    def make(key, sizes, dt_min, dt_max):
        return SelectiveSSM.init(
            key,
            sizes.features,
            state_size=sizes.state,
            dt_rank=sizes.dt_rank,
            dt_min=dt_min,
            dt_max=dt_max,
            stretch=32,
        )

    def theirs(p, x):
        y, last = published.ssm(p, jnp.swapaxes(x, 1, 2))
        return jnp.swapaxes(y, 1, 2), last

    rng = np.random.default_rng(2)
    layers = drawn(make, sizes)
    shape = (len(DT), sizes.batch, sizes.time, sizes.features)
    h = (len(DT), sizes.batch, sizes.features, sizes.state)
    cotangent = normal(rng, shape), normal(rng, h)
    assert_same(lambda layer, x: layer(x), theirs, layers, normal(rng, shape), cotangent)


@dataclasses.dataclass(frozen=True)
class Scan:
    """Of one group of calls of the scan alone; `starts`: of sequences packed into one."""

    batch: int = 2
    channels: int = 5
    N: int = 3
    T: int = 21
    complex: bool = False
    starts: tuple[int, ...] = ()
    gate: bool = True


SCANS = [
    Scan(),
    Scan(batch=1, channels=8, N=16, T=70, starts=(13, 66), gate=False),
    Scan(complex=True),
    Scan(complex=True, channels=2, T=66, starts=(1,), gate=False),
]


def scan_parameters(sizes):
    """Real arrays: a complex one is a pair of them, as published."""
    rng, count = np.random.default_rng(3), len(DT)
    pair = (2,) if sizes.complex else ()
    steps, states = (count, sizes.batch, sizes.T), (count, sizes.channels, sizes.N)
    p = {
        "delta": normal(rng, (*steps, sizes.channels)),
        "bias": np.stack([normal(rng, sizes.channels) + np.log(high) for _, high in DT]),
        "A_log": normal(rng, states) / 2,
        "B": normal(rng, (*steps, sizes.N, *pair)),
        "C": normal(rng, (*steps, sizes.N, *pair)),
        "D": normal(rng, (count, sizes.channels)),
    }
    p |= {"A_imaginary": 3 * normal(rng, states)} if sizes.complex else {}
    return p | ({"z": normal(rng, (*steps, sizes.channels))} if sizes.gate else {})


def _joined(p):
    """(A, B, C)."""
    A = -jnp.exp(p["A_log"])
    if "A_imaginary" not in p:
        return A, p["B"], p["C"]
    B, C = (jax.lax.complex(p[name][..., 0], p[name][..., 1]) for name in "BC")
    return jax.lax.complex(A, p["A_imaginary"]), B, C


def _parts(y, last):
    return y, (last.real, last.imag) if jnp.iscomplexobj(last) else last


@pytest.mark.parametrize("sizes", SCANS, ids=str)
def test_selective_scan(sizes):
    starts = np.isin(np.arange(sizes.T), sizes.starts)
    reset = starts if sizes.starts else None

    def ours(p, u):
        A, B, C = _joined(p)
        options = {"delta_bias": p["bias"], "delta_softplus": True, "reset": reset}
        if not sizes.complex:
            y, last = selective_scan(u, p["delta"], A, B, C, p["D"], **options)
        else:  # of a pair of conjugates the one that is scanned
            y, last = selective_scan(u, p["delta"], A, B, C, **options)
            y = 2 * y.real + p["D"][None, None] * u
        return _parts(y * jax.nn.silu(p["z"]) if sizes.gate else y, last)

    def theirs(p, u):
        A, B, C = _joined(p)
        z = jnp.swapaxes(p["z"], 1, 2) if sizes.gate else None
        u, delta, B, C = (jnp.swapaxes(v, 1, 2) for v in (u, p["delta"], B, C))
        options = {"softplus": True, "starts": starts}
        y, last = published.scan(u, delta, A, B, C, p["D"], z, p["bias"], **options)
        return _parts(jnp.swapaxes(y, 1, 2), last)

    rng = np.random.default_rng(4)
    u, dy = (normal(rng, (len(DT), sizes.batch, sizes.T, sizes.channels)) for _ in range(2))
    states = len(DT), sizes.batch, sizes.channels, sizes.N
    dlast = normal(rng, states)
    cotangent = dy, (dlast, normal(rng, states)) if sizes.complex else dlast
    with jax.numpy_dtype_promotion("standard"):  # for theirs, of real times and complex states
        assert_same(ours, theirs, scan_parameters(sizes), u, cotangent)


def test_groups_of_channels_are_calls_of_their_own():
    """Published B and C may be shared by a group of channels: that is `vmap` over the groups."""
    groups, size = 2, Scan(channels=3)
    rng = np.random.default_rng(5)
    shape = (groups, 2, size.T, size.channels)
    u, delta = normal(rng, shape), np.abs(normal(rng, shape))
    A = -np.abs(normal(rng, (groups, size.channels, size.N)))
    B, C = (normal(rng, (groups, 2, size.T, size.N)) for _ in range(2))
    y, last = jax.jit(jax.vmap(selective_scan))(u, delta, A, B, C)
    for g in range(groups):
        back = [np.swapaxes(v[g], 1, 2) for v in (u, delta, B, C)]
        want, last_want = published.scan(*back[:2], A[g], *back[2:])
        np.testing.assert_allclose(y[g], np.swapaxes(want, 1, 2), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(last[g], last_want, rtol=1e-5, atol=1e-5)
