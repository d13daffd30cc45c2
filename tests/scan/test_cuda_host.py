"""The host that the CUDA kernel is tested on: that it finds what a GPU would not forgive."""

import numpy as np
import pytest

from tests.scan.cuda_host.build import (
    HostError,
    Launch,
    Result,
    SanitizerError,
    library,
    run_program,
    why_no_sanitizer,
    why_not,
)

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

WARP, BLOCK, SHUFFLE, COPIES, CHAIN, DIVERGES = range(6)
F32, MESSAGES, OUT = 2, 7, 8


def plain():
    return library("toy.h", ("f32",))


def toy(kind, mode=0, *, grid=3, warps=2, seed=0, shared=None):
    """A launch of toy.h, and what it should give."""
    problem = np.zeros(plain().numbers, int)
    problem[:5] = F32, kind, mode, 0, 32 * warps
    rng = np.random.default_rng(0)
    per_thread = 16 if kind == COPIES else 1
    x = rng.integers(0, 99, (grid, warps, 32 * per_thread)).astype(np.float32)
    slots = [None] * plain().pointers
    slots[0], slots[OUT] = x, Result(x.shape, x.dtype)
    want = {
        WARP: 2 * np.roll(x, -1, -1),
        BLOCK: np.broadcast_to(x.sum((1, 2), keepdims=True), x.shape),
        SHUFFLE: x.cumsum(-1),
        COPIES: x,
        CHAIN: np.broadcast_to(1 + np.arange(grid)[:, None, None], x.shape),
        DIVERGES: np.ones_like(x),
    }[kind]
    if kind == COPIES and mode == 2:
        slots[0] = np.append(x, x[:1])
    if kind == CHAIN:
        slots[MESSAGES] = Result((grid + 1,), np.dtype(np.uint64), zeros=True)
    shared = {COPIES: 1024 * warps, CHAIN: 8}.get(kind, 128 * warps) if shared is None else shared
    return Launch(problem.tolist(), slots, grid, 32 * warps, shared, seed), want


def run(kind, mode=0, **options):
    launch, want = toy(kind, mode, **options)
    return plain().run(launch), want


def under(sanitizer, *launches):
    reason = why_no_sanitizer(sanitizer)
    if reason:
        pytest.skip(reason)
    launches, wants = zip(*launches, strict=True)
    got = run_program(sanitizer, launches, "toy.h", ("f32",))
    for ran, want in zip(got, wants, strict=True):
        np.testing.assert_array_equal(ran.results[-1], want)


RIGHT = [(kind, seed) for kind in range(6) for seed in range(4)]


def test_threads_meet_in_any_order():
    for kind, seed in RIGHT:
        ran, want = run(kind, seed=seed)
        np.testing.assert_array_equal(ran.results[-1], want)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_sanitizers_find_nothing_in_what_is_right(sanitizer):
    under(sanitizer, *(toy(kind, seed=seed, grid=4) for kind, seed in RIGHT))


def test_many_blocks_wait_for_one_another():
    for seed in range(8):
        ran, want = run(CHAIN, grid=300, warps=1, seed=seed)
        np.testing.assert_array_equal(ran.results[-1], want)


def test_bytes_are_counted():
    ran, want = run(COPIES)
    assert ran.bytes_read == ran.bytes_written == want.nbytes


@pytest.mark.parametrize(
    ("kind", "mode", "words"),
    [
        (COPIES, 2, ["misaligned", "toy.h:"]),
        (CHAIN, 1, ["deadlock", "sync_block"]),
        (DIVERGES, 1, ["sync_warp", "shuffle", "toy.h:"]),
        (DIVERGES, 2, ["sync_warp", "others have finished"]),
        (DIVERGES, 4, ["sync_block", "others have finished"]),
        (DIVERGES, 8, ["is at sync_block", "at sync_block"]),
    ],
)
def test_what_a_gpu_would_not_forgive_is_reported(kind, mode, words):
    for seed in range(4):
        with pytest.raises(HostError) as caught:
            run(kind, mode, seed=seed)
        assert all(word in str(caught.value) for word in words), caught.value
    ran, want = run(kind)  # nothing of it stays
    np.testing.assert_array_equal(ran.results[-1], want)


def test_a_copy_that_was_not_waited_for_is_nan():
    ran, _ = run(COPIES, 1)
    assert np.isnan(ran.results[-1]).any()


@pytest.mark.parametrize("mode", [1, 3], ids=["alone", "before a shuffle"])
@pytest.mark.parametrize("kind", [WARP, BLOCK], ids=["warp", "block"])
def test_the_thread_sanitizer_finds_a_missing_barrier(kind, mode):
    """Though the result is right: what is written twice is the same."""
    if kind == BLOCK:
        mode = 1
    launch, want = toy(kind, mode)
    np.testing.assert_array_equal(plain().run(launch).results[-1], want)
    with pytest.raises(SanitizerError, match="data race"):
        under("thread", toy(kind), toy(kind, mode))


def test_the_thread_sanitizer_finds_a_message_in_ordinary_memory():
    with pytest.raises(SanitizerError, match="data race"):
        under("thread", toy(CHAIN, 4, warps=1))


def test_the_address_sanitizer_finds_what_is_out_of_bounds():
    launch, want = toy(BLOCK)
    for shared in (launch.shared_bytes - 4, launch.shared_bytes - 1):
        with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            under("address", toy(BLOCK), toy(BLOCK, shared=shared))
    short = np.asarray(launch.slots[0]).reshape(-1)[:-1]
    launch = Launch(launch.problem, [short, *launch.slots[1:]], launch.grid, launch.block, 1024)
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        under("address", (launch, want))


def test_the_address_sanitizer_finds_what_is_undefined():
    with pytest.raises(SanitizerError, match="signed integer overflow"):
        under("address", toy(DIVERGES), toy(DIVERGES, 16, warps=1))
