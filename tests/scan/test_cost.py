"""The cost model: what methods state of themselves, and what `auto` makes of it."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import explain_linear_scan
from rnnscan.scan import devices, linear_table, matrix_table, target
from rnnscan.scan.cost import Cost, seconds
from rnnscan.scan.linear_method import LinearCase
from rnnscan.scan.target import Target

LINEAR = [method for method in linear_table.methods if method.cost]
MATRIX = [method for method in matrix_table.methods if method.cost]
KNOWN = "NVIDIA H100 80GB HBM3"


def case(length=1000, batch=3, inner=16, size=1, *, constant=False, dtype="float32", **options):
    options = {"platform": "cuda"} | options
    width = batch * inner
    sizes = {"length": length, "width": width, "inner": inner, "size": size}
    return LinearCase(dtype=np.dtype(dtype), constant=constant, **sizes, **options)


def test_seconds_are_counts_times_the_seconds_of_one_of_each():
    counts = Cost(launches=1, steps=2, bytes=3, fresh=4, elements=5, lines=6, flops=7)
    each = Cost(launches=7e0, steps=6e1, bytes=5e2, fresh=4e3, elements=3e4, lines=2e5, flops=1e6)
    assert seconds(counts, each) == 7 + 120 + 1500 + 16e3 + 15e4 + 12e5 + 7e6
    assert seconds(counts + counts, each) == seconds(counts.times(2), each)
    assert seconds(Cost(), each) == 0


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("complex64", 8), ("float16", 2)])
def test_the_traffic_is_words_that_no_method_avoids(constant, dtype, itemsize):
    """3 and 5 words an element, 2 and 3 where the decay is constant in time."""
    it = case(100, 2, 8, constant=constant, dtype=dtype)
    array = 100 * 16 * itemsize
    assert it.traffic(False) == Cost(bytes=(2 if constant else 3) * array, fresh=array)
    both = it.traffic(False) + it.traffic(True)
    assert both.bytes == (5 if constant else 8) * array


@pytest.mark.parametrize("method", LINEAR, ids=lambda method: method.name)
@pytest.mark.parametrize("backward", [False, True])
def test_no_method_moves_less_than_it_must(method, backward):
    for length, batch, inner, constant in itertools.product(
        (1, 7, 4096), (0, 1, 300), (1, 16), (False, True)
    ):
        it = case(length, batch, inner, constant=constant)
        least = it.traffic(False).bytes + (it.traffic(True).bytes if backward else 0)
        found = method.cost(it, backward)
        assert found.bytes >= least
        assert all(count >= 0 for count in dataclasses.astuple(found))


@pytest.mark.parametrize("method", LINEAR + MATRIX, ids=lambda method: method.name)
def test_twice_the_time_costs_more_and_at_most_twice_as_much(method):
    size = 8 if method in MATRIX and method not in LINEAR else 1
    each = Cost(**dict.fromkeys(dataclasses.asdict(Cost()), 1e-9))
    for length in (64, 4096):
        short, long = (case(n, 4, 16, size, constant=size > 1) for n in (length, 2 * length))
        for backward in (False, True):
            once, twice = (seconds(method.cost(it, backward), each) for it in (short, long))
            assert once < twice <= 2.1 * once
            assert seconds(method.cost(long, False), each) <= seconds(method.cost(long, True), each)


def test_the_span_is_what_the_methods_say():
    """T turns one after another, 2 C of chunks, none of a tree but for its levels."""
    steps = {method.name: method.cost(case(4096), False).steps for method in LINEAR}
    assert steps["sequential"] == 4096
    assert steps["blocked"] == 128
    assert steps["associative"] == steps["native"] == steps["cuda"] == 0
    tree = linear_table.methods[linear_table.names.index("associative")]
    assert tree.cost(case(4096), False).launches == 3 * (2 * (12 - 3) + 1)


@pytest.mark.parametrize("table", [linear_table, matrix_table], ids=["linear", "matrix"])
def test_auto_takes_what_is_predicted_to_be_fastest_where_the_device_is_known(table, monkeypatch):
    size = 1 if table is linear_table else 8
    dear_steps = Cost(launches=1e-6, steps=1e-3, bytes=1e-12, flops=1e-14)
    dear_words = Cost(launches=1e-9, steps=1e-9, bytes=1e-6, flops=1e-14)
    for each, wanted in ((dear_steps, {"associative", "blocked"}), (dear_words, {"sequential"})):
        monkeypatch.setitem(devices.DEVICES, "a card", each)
        it = case(4096, 4, 16, size, device="a card", platform="rocm")
        name, reason = table.prefer(it)
        assert name in wanted
        assert "a card" in reason
        able = [m for m in table.methods if m.cost and m.why_not(it) is None]
        times = {m.name: seconds(m.cost(it, True), each) for m in able}
        assert times[name] == min(times.values())
        (chosen,) = [row for row in table.explain(it) if row.chosen]
        assert (chosen.method, chosen.available) == (name, True)


def test_a_loop_and_a_tree_cross_where_their_counts_say(monkeypatch):
    """A step costs a quarter of a launch: 2 T turns against 6 launches for each of the levels."""
    each = Cost(launches=1.0, steps=0.25)
    monkeypatch.setitem(devices.DEVICES, "a card", each)
    takes = {
        length: linear_table.prefer(case(length, device="a card", platform="tpu"))[0]
        for length in (16, 64, 1024)
    }
    assert takes[16] == takes[64] == "sequential"
    assert takes[1024] in ("associative", "blocked")


@pytest.mark.parametrize("table", [linear_table, matrix_table], ids=["linear", "matrix"])
@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu", "cpu"])
def test_an_unknown_device_keeps_the_rule_of_its_platform(table, platform):
    size = 1 if table is linear_table else 8
    for length in (1, 3, 8, 1000):
        it = case(length, size=size, platform=platform)
        unknown = dataclasses.replace(it, device="a card of tomorrow")
        assert table.prefer(it) == table.prefer(unknown)


def test_a_known_card_is_never_given_a_method_that_cannot_serve():
    for length, batch, inner in itertools.product((1, 4, 64, 10**6), (1, 512), (1, 64)):
        it = case(length, batch, inner, device=KNOWN)
        name, _ = linear_table.prefer(it)
        assert linear_table.resolve(name, it).name == name


def test_the_kind_of_device_is_asked_for_on_accelerators_alone():
    assert Target("cpu").device == ""
    assert Target("cuda", exported=True).device == ""
    assert devices.known("") is None
    assert devices.known(KNOWN) is not None
    assert target.named("cpu").device == ""


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="the kind of card is known here")
def test_a_card_that_is_not_here_is_not_known():
    assert target.named("cuda").device == ""
    rows = explain_linear_scan(0.5, jnp.zeros((1000, 16)), platform="cuda")
    assert not any("predicted" in row.reason for row in rows)
