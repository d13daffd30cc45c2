"""The limit is the larger of two times; only right kernels say how fast the machine is."""

import pytest

from experiments.harness import limits, race
from experiments.harness.limits import Limits, Work
from experiments.harness.timing import Check, Timing, compare


def timing(name, seconds, error=0.0):
    return Timing(name, Check(error, 1e-6, "numpy"), 0.0, 0.0, 0, 1, (seconds,) * 3)


def test_the_slower_of_streaming_and_multiplying_is_the_limit():
    machine = Limits(bandwidth=100.0, flop_rate=1000.0)
    assert machine.seconds(Work(bytes=200, flops=1000)) == 2.0
    assert machine.bound(Work(bytes=200, flops=1000)) == "bandwidth"
    assert machine.seconds(Work(bytes=100, flops=3000)) == 3.0
    assert machine.bound(Work(bytes=100, flops=3000)) == "arithmetic"


def test_only_the_best_kernel_that_is_right_says_how_fast_the_machine_is():
    timings = [
        timing("limit: stream a + b", 4.0),
        timing("limit: stream a * b + b", 2.0),
        timing("limit: stream maximum(a, b)", 1.0, error=1.0),
        timing("limit: product of matrices", 0.5),
        timing("LRU sequential", 0.25),
    ]
    assert limits.measured(timings, 1200.0, 10) == Limits(bandwidth=600.0, flop_rate=4000.0)


def test_without_a_right_kernel_there_is_no_limit():
    for wrong in ("limit: stream a + b", "limit: product of matrices"):
        timings = [
            timing(name, 1.0, error=float(name == wrong))
            for name in ("limit: stream a + b", "limit: product of matrices")
        ]
        with pytest.raises(ArithmeticError, match="wrong results"):
            limits.measured(timings, 1200.0, 10)


def test_the_kernels_are_right_and_move_what_was_asked():
    contenders = limits.contenders(1200.0, 8)
    for contender in contenders[:3]:
        assert sum(array.nbytes for array in contender.arguments) == 800  # and 400 written
    timings = compare(contenders, rounds=3, sample_seconds=1e-9)
    assert len(timings) == 4
    assert all(timing.counts for timing in timings)
    machine = limits.measured(timings, 1200.0, 8)
    assert min(machine.bandwidth, machine.flop_rate) > 0


def test_measured_rates_are_sensible():
    assert 1e6 < limits.flop_rate(32) < 1e16
    assert limits.flop_rate(32) == limits.flop_rate(32)  # measured once
    assert 1e-10 < limits.step_seconds() < 1e-2
    assert limits.memory_bytes() > 2**20


def test_a_wrong_kernel_is_no_limit(monkeypatch):
    monkeypatch.setattr(limits, "_check", lambda *_, **__: Check(1.0, 0.0, "numpy"))
    with pytest.raises(ArithmeticError, match="is wrong"):
        limits.step_seconds.__wrapped__()


def race_of(*products):
    """`race.beside_limit` on a made-up clock: each measurement's seconds of the limit's kernels."""
    config = race.Config(rounds=3)
    left = [
        [timing("LRU", 1.0), timing("limit: stream a", s), timing(_PRODUCT, s)] for s in products
    ]
    ready = []

    def prepare(contenders, **_):
        ready.append(contenders)
        return contenders

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "prepare", prepare)
        patch.setattr(race, "sample", lambda *_, **__: left.pop(0))
        found = race.beside_limit(config, [], {"LRU": Work(bytes=12, flops=1)}, 12, 16)
    assert len(ready) == 1  # nothing is compiled again
    return found[0][1]["limit_seconds"], len(left)


_PRODUCT = "limit: product of matrices"


@pytest.mark.parametrize(
    ("seconds", "kept", "left"),
    [
        ([0.5, 9.0], 0.5, 1),  # right at once
        ([2.0, 0.5, 9.0], 0.5, 1),  # the second time
        ([4.0, 2.0, 3.0, 0.5], 2.0, 1),  # never: what contradicts itself least
    ],
)
def test_what_beats_the_limit_is_measured_again(seconds, kept, left):
    assert race_of(*seconds) == (pytest.approx(kept), left)


def test_a_wrong_program_is_not_held_against_the_limit():
    wrong = [timing("LRU", 1e-9, error=1.0), timing("limit: stream a", 1.0), timing(_PRODUCT, 1.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "prepare", lambda *_, **__: [])
        patch.setattr(race, "sample", lambda *_, **__: wrong)
        found = race.beside_limit(race.Config(), [], {"LRU": Work(12, 1)}, 12, 16)
    assert [it for it, _ in found] == wrong


def test_shares_above_one_contradict_themselves():
    assert not any(map(limits.contradicts, (0.0, 0.5, 1.0, limits.NOISE)))
    assert all(map(limits.contradicts, (1.3, float("inf"), float("nan"))))
