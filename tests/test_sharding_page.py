"""What docs/sharding.md shows is true: its Python runs, its counts are those of today."""

import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.collectives import page
from scripts.collectives.count import count_with
from scripts.collectives.hlo import counted
from scripts.collectives.programs import PROGRAMS
from tests import quick

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "sharding.md").read_text()
BLOCKS = [textwrap.dedent(b) for b in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)]
FLAGS = f"--xla_force_host_platform_device_count=8 {quick.FLAGS}"
EIGHT = {**os.environ, "XLA_FLAGS": FLAGS}


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**EIGHT, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_blocks_run():
    assert len(BLOCKS) == 4
    scopes = "\n".join(f"exec({block!r}, {{}})" for block in BLOCKS)
    done = run(f"{scopes}\nimport jax\nassert jax.device_count() == 8")
    assert done.returncode == 0, done.stderr


PITFALLS = """
import jax, jax.numpy as jnp, numpy as np, pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec as P
from rnnscan import linear_scan

automatic = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
explicit = jax.make_mesh((8,), ("d",))
a, b = jnp.full((96, 4), 0.9), jnp.ones((96, 4))

# T must be a multiple; steps of a = 1 and b = 0 come first in memory where the scan is reversed
for mesh in automatic, explicit:
    with pytest.raises(ValueError, match="partitioned 8 times"):
        jax.device_put(b[1:], NamedSharding(mesh, P("d")))
padded = [jnp.concatenate([jnp.full((1, 4), n), x[1:]]) for n, x in ((1.0, a), (0.0, b))]
h = linear_scan(*padded, reverse=True)
np.testing.assert_allclose(h[0], linear_scan(a[1:], b[1:], reverse=True)[0], rtol=1e-5)

# outside of jit, on explicit axes
there = jax.device_put((a, b), NamedSharding(explicit, P("d")))
product, scanned = lambda a, b: (a * b).sum(), lambda a, b: linear_scan(a, b).sum()
linear_scan(*there)
for call in jax.grad(product), jax.grad(scanned):
    with pytest.raises(ValueError, match="Length of device assignment 1"):
        call(*there)
    with jax.set_mesh(explicit):
        call(*there)

# inside of shard_map
decay = jnp.full(4, 0.9)
def slope(decay, b):
    return jax.grad(lambda decay: linear_scan(decay, b, axis_name="d").sum())(decay)[None]
whole = jax.grad(lambda decay: linear_scan(decay, b).sum())(decay)
for checked in True, False:
    options = dict(
        mesh=automatic, in_specs=(P(), P("d")), out_specs=P("d"), check_vma=checked
    )
    inside = jax.shard_map(slope, **options)
    each = inside(decay, b)
    np.testing.assert_allclose(each[0] if checked else each.sum(0), whole, rtol=1e-5)
    assert checked == bool(jnp.allclose(each, whole, rtol=1e-5))
    outside = jax.shard_map(lambda decay, b: linear_scan(decay, b, axis_name="d"), **options)
    slopes = jax.grad(lambda decay: outside(decay, b).sum())(decay)
    np.testing.assert_allclose(slopes, whole, rtol=1e-5)

# lowering without devices
mesh = AbstractMesh((8,), ("d",), axis_types=(AxisType.Auto,))
types = [jax.ShapeDtypeStruct((96, 4), jnp.float32, sharding=NamedSharding(mesh, P("d")))] * 2
with pytest.raises(ValueError, match="AbstractMesh cannot be used"):
    jax.jit(linear_scan).trace(*types).lower(lowering_platforms=("cpu",))
"""


def test_its_pitfalls_are_as_it_says():
    done = run(PITFALLS)
    assert done.returncode == 0, done.stderr


CACHED = """
import jax, sys
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from rnnscan import linear_scan

if sys.argv[1] == "without":
    jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
x = jax.ShapeDtypeStruct((96, 4), jnp.float32, sharding=NamedSharding(mesh, P("d")))
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event.split("/")[-1]))
jax.jit(linear_scan).lower(x, x).compile()
print("cache_hits" in seen)
"""


@pytest.mark.parametrize("pointer", ["with", "without"])
def test_the_compilation_cache_finds_nothing_unless_told(pointer, tmp_path):
    env = {
        **EIGHT,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-c", CACHED, pointer]
    hits = [
        subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert hits == ["False\n", "False\n" if pointer == "with" else "True\n"]


def rows_of(name):
    """A generated table of the page, by what is sharded."""
    (table,) = re.findall(rf"<!-- generated: {name} -->\n(.*?)\n<!-- end -->", TEXT, re.DOTALL)
    head, _, *body = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in body]


def test_its_counts_are_those_now(monkeypatch):
    """But for JAX's own tree, which takes longer than all others together, and is not ours."""
    what = {program.name: program.what for program in PROGRAMS if not program.deep}
    tables = {direction: rows_of(direction) for direction in ("forward", "gradient")}
    monkeypatch.setenv("XLA_FLAGS", quick.FLAGS)
    with ThreadPoolExecutor() as both:
        found = both.map(lambda devices: count_with(devices, "--programs", *what), (2, 8))
    records = [record for of_some in found for record in of_some]
    assert len(records) == 2 * 2 * len(what)
    for record in records:
        (row,) = [r for r in tables[record["direction"]] if r["sharded"] == what[record["program"]]]
        assert row[f"{record['devices']} devices"] == page.cell(record), row


def test_the_page_has_a_place_for_all_that_is_generated():
    names = {"version", "forward", "gradient", "predicted"}
    assert set(re.findall(r"<!-- generated: (\w+) -->", TEXT)) == names
    assert page.filled(TEXT, {"version": "x"}) != TEXT
    with pytest.raises(ValueError, match="markers"):
        page.filled(TEXT, {"elsewhere": "x"})


def test_collectives_are_counted_where_they_hide():
    text = """HloModule m

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %r = (f32[8]{0}, /*index=1*/bf16[4]{0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}
}

%more (p: f32[8]) -> f32[8] {
  ROOT %c = f32[8]{0} collective-permute(%p), source_target_pairs={{0,1}}
}

ENTRY %main (p: f32[8]) -> f32[16] {
  %w = (s32[], f32[8]{0}) while(%t), body=%body, config={"known_trip_count":{"n":"5"}}
  %v = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%more
  %b = f32[8]{0} fusion(%p), kind=kLoop, calls=%more
  %g = (f32[8]{0}, f32[32]{0}) all-gather-start(%p), replica_groups=[1,4]<=[4]
  ROOT %d = f32[32]{0} all-gather-done(%g)
}
"""
    found = counted(text, 4)
    assert found.counts == {"all-reduce": 5, "collective-permute": 2, "all-gather": 1}
    assert found.received == {
        "all-reduce": 5 * 2 * (1 / 2) * (8 * 4 + 4 * 2),
        "collective-permute": 2 * 32,
        "all-gather": 3 / 4 * 128,
    }
    assert found.turns == 5 + 4
    assert found.open
