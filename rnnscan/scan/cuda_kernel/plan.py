"""How the work of one map is laid out on a GPU: which launches, with which numbers.

What is chosen here, from sizes alone (see problem.h for chains, units, lanes and tiles):

  a lane has adjacent chains or, where time is last, adjacent steps of one: up to 16 bytes;
  `walk` where there are warps enough to keep the memory busy, each from the first step to the last;
  else time is split into chunks: `chained` (3 words an element forward, but a chunk waits for the
  state before it) or `reduce` and `apply` (5 words, and nobody waits), whichever should take less.

The figures of a card, below, are those of an H100, from its data sheet and from what others
measured. No choice has been measured on a card yet.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp

from rnnscan.scan.cuda_kernel.problem import STREAMS, WARP, Kind, Launch, Mode, View
from rnnscan.scan.linear_method import Problem, Shape

WIDEST = 16  # bytes that one instruction moves
NARROWEST = 4  # and the least that it copies while the warp goes on
CORES = 132
WARPS_TO_WALK = 3 * CORES // 2  # with copies running ahead, fewer cannot keep the memory busy
WARPS_OF_CHUNKS = 4 * CORES
MOST_CHUNKS = 1024  # whose maps every chunk reads
LEAST_CHUNK = 128  # steps, beside which a map is small
STAGES_BYTES = 48 * 1024  # of shared memory for the copies that run ahead, a warp
BLOCK_BYTES = 72 * 1024  # for the chunk of a block: three blocks share a core
BANDWIDTH = 3e12  # bytes a second
HANDOVER = 1e-6  # seconds until the next block has the state of the one before it
LAUNCH = 6e-6  # seconds for a second launch and the maps that it reads


def plan(
    kind: Kind, problem: Problem, shapes: Mapping[str, Shape], mode: Mode | None = None
) -> tuple[Launch, ...]:
    """The launches that evaluate a map: one, or `reduce` and `apply`.

    `shapes`: of operands and results by slot, those that the map has; `d_decay`, where da is asked
    for, has that of h or, to be summed over time, size 1 there. `mode`: "apply" stands for both;
    chosen where none is given.
    """
    base = _laid_out(kind, problem, shapes)
    walk = _walking(base)
    if mode is None:
        mode = _mode(walk, base)
    if mode == "walk":
        return (walk,)
    split = _chained(base) if mode == "chained" else _chunked(base)
    if mode == "chained":
        return (split,)
    return _reducing(split), split


def _laid_out(kind: Kind, problem: Problem, shapes: Mapping[str, Shape]) -> Launch:
    """All but how the work is shared: axes merged, views, units."""
    time, shape = problem.time, problem.shape
    length = time.length
    strides = {name: _strides(given, shape) for name, given in shapes.items()}
    steps = {name: s[time.axis] for name, s in strides.items()}
    outer = _merged(range(time.axis), shape, strides)
    behind = _merged(range(time.axis + 1, len(shape)), shape, strides)
    axes = (*outer, *behind)
    sizes = tuple(size for size, _ in axes)
    inner = math.prod(size for size, _ in behind)
    dtype = jnp.dtype(problem.dtype)
    # Units may not cross an axis: an operand may broadcast over it.
    along_time = inner == 1
    adjacent = length if along_time else behind[-1][0]
    vector = next(
        v for v in (8, 4, 2, 1) if (v * dtype.itemsize <= WIDEST or v == 1) and adjacent % v == 0
    )
    views = {
        name: View(
            present=True,
            step=steps[name],
            strides=tuple(over[name] for _, over in axes),
        )
        for name in shapes
    }
    sums = "d_decay" in views and shapes["d_decay"] != shape
    if sums:
        del views["d_decay"]
    return Launch(
        kind=kind,
        mode="walk",
        dtype=dtype.name,
        backward=time.reverse != (kind == "transpose"),
        steps=length,
        sizes=sizes,
        inner=inner,
        vector=vector,
        along_time=along_time,
        lanes=1,
        segments=1,
        length=1,
        stages=1,
        stage_bytes=0,
        warps=1,
        chunk=length,
        chunks=1,
        sums=sums,
        views=views,
    )


def _strides(given: Shape, shape: Shape) -> tuple[int, ...]:
    """Of an array in row-major order; 0 where it broadcasts."""
    products = [math.prod(given[i + 1 :]) for i in range(len(given))]
    return tuple(
        0 if size == 1 and full != 1 else product
        for size, full, product in zip(given, shape, products, strict=True)
    )


def _merged(
    axes: range, shape: Shape, strides: Mapping[str, tuple[int, ...]]
) -> list[tuple[int, dict[str, int]]]:
    """Sizes and strides of these axes, those made one that every array goes through as one."""
    merged: list[tuple[int, dict[str, int]]] = []
    for i in axes:
        if shape[i] == 1:
            continue
        size, over = shape[i], {name: s[i] for name, s in strides.items()}
        if merged and all(merged[-1][1][name] == size * over[name] for name in over):
            merged[-1] = (merged[-1][0] * size, over)
        else:
            merged.append((size, over))
    return merged


def _with_lanes(launch: Launch, lanes: int, segments: int) -> Launch:
    """So many steps a lane that a tile is no longer than time."""
    steps = 16 // launch.vector if launch.along_time else 8
    length = max(1, min(steps, -(-launch.steps // (segments * launch.unit_steps))))
    return dataclasses.replace(launch, lanes=lanes, segments=segments, length=length)


def _walking(base: Launch) -> Launch:
    """Time as a whole; lanes that chains do not fill are segments of it."""
    packed = _packed(base)
    if packed and packed.groups >= WARPS_TO_WALK:
        return _placed(packed, STAGES_BYTES)
    launch = base
    while True:
        lanes = -(-launch.units // -(-launch.units // WARP))
        launch = _with_lanes(launch, lanes, WARP // lanes)
        enough = launch.groups >= WARPS_TO_WALK or launch.along_time or launch.segments > 1
        if enough or launch.vector == 1 or launch.vector * launch.itemsize <= NARROWEST:
            return _placed(launch, STAGES_BYTES)
        launch = dataclasses.replace(launch, vector=launch.vector // 2)


def _packed(base: Launch) -> Launch | None:
    """Where time is short: chains that the axes before time tell apart side by side in a warp.

    As few segments as hold all steps in one tile, and lanes for all that they leave. Nothing else
    wants the lanes of a warp to be neighbours behind time.
    """
    whole = dataclasses.replace(base, inner=base.chains)
    alone = _with_lanes(base, base.units, 1)
    segments = max(2 if base.along_time else 1, -(-base.steps // alone.tile_steps))
    lanes = min(WARP // min(WARP, segments), whole.groups)
    return _with_lanes(whole, lanes, segments) if lanes > base.units else None


def _mode(walk: Launch, base: Launch) -> Mode:
    if walk.groups >= WARPS_TO_WALK or walk.steps <= 4 * walk.tile_steps:
        return "walk"
    chained, apply = _chained(base), _chunked(base)
    if apply.chunks == 1:
        return "walk"
    once = _bytes(apply) / BANDWIDTH
    twice = once + _bytes(_reducing(apply)) / BANDWIDTH + LAUNCH
    fits = chained.shared_bytes <= 2 * BLOCK_BYTES
    return "chained" if fits and max(once, chained.chunks * HANDOVER) <= twice else "apply"


def _bytes(launch: Launch) -> int:
    """That a launch moves, of full-size arrays."""
    streams = (*STREAMS, "out", "d_decay")
    words = sum(bool(launch.view(name).step) for name in streams if name != "reset")
    if launch.mode == "reduce":
        words -= sum(bool(launch.view(name).step) for name in ("out", "d_decay"))
    return words * launch.itemsize * launch.steps * launch.chains


def _split(base: Launch) -> Launch:
    """For a part of time: 64 or 128 bytes side by side, the rest of a warp one behind the other."""
    wide = 128 // (base.itemsize * base.vector)
    lanes = max(1, min(base.units, WARP // base.vector, wide))
    return _with_lanes(base, lanes, WARP // lanes)


def _chained(base: Launch) -> Launch:
    """As many steps a block as its shared memory has room for: fewer wait for each other."""
    launch = dataclasses.replace(_split(base), mode="chained")
    most = 8
    while most * launch.tile_steps < launch.steps:
        longer = dataclasses.replace(launch, length=2 * launch.length)
        if most * _placed(longer, 0).stage_bytes > BLOCK_BYTES or longer.length > 64:
            break
        launch = longer
    warp = max(1, _placed(launch, 0).stage_bytes)
    warps = max(1, min(most, BLOCK_BYTES // warp, -(-launch.steps // launch.tile_steps)))
    chunk = warps * launch.tile_steps
    launch = dataclasses.replace(launch, warps=warps, chunk=chunk, chunks=-(-launch.steps // chunk))
    return _placed(launch, 0)


def _chunked(base: Launch) -> Launch:
    launch = dataclasses.replace(_split(base), mode="apply")
    tile = launch.tile_steps
    wanted = min(MOST_CHUNKS, -(-WARPS_OF_CHUNKS // launch.groups))
    least = max(LEAST_CHUNK, -(-launch.steps // wanted))
    chunk = tile * -(-least // tile)
    launch = dataclasses.replace(launch, chunk=chunk, chunks=-(-launch.steps // chunk))
    return _placed(launch, STAGES_BYTES)


def _reducing(launch: Launch) -> Launch:
    """The launch before this one, for the maps of its chunks."""
    needed = ("decay", "drive", "reset")
    if launch.kind == "tangent":
        needed += ("before", "decay_tangent", "first")
    views = {name: view for name, view in launch.views.items() if name in needed}
    launch = dataclasses.replace(launch, mode="reduce", views=views, sums=False)
    return _placed(launch, STAGES_BYTES)


def _placed(launch: Launch, budget: int) -> Launch:
    """With the places of arrays in shared memory, and as many stages as the budget allows."""
    views, end = dict(launch.views), 0
    free: dict[str, int] = {}

    def width(name: str) -> int:
        view = views[name]
        if launch.along_time:  # what is read one step off is not aligned
            return launch.vector if name != "before" and view.step == 1 else 1
        return launch.vector if view.strides and view.strides[-1] == 1 else 1

    for name in STREAMS:
        if name not in views:
            continue
        wide = width(name)
        views[name] = dataclasses.replace(views[name], width=wide, place=end)
        if not views[name].step:
            continue
        if wide == launch.vector and name != "reset":
            free[name] = end
        rows = launch.length * (launch.vector // wide if launch.along_time else 1)
        size = rows * launch.pitch * wide * (1 if name == "reset" else launch.itemsize)
        end += -(-size // WIDEST) * WIDEST
    # A result takes the place of an operand that its lane has read.
    for name, operand in (("out", "drive"), ("d_decay", "decay")):
        if name not in views:
            continue
        place = free.get(operand, end)
        views[name] = dataclasses.replace(views[name], width=launch.vector, place=place)
        if place == end and launch.segments > 1:
            size = launch.length * launch.pitch * launch.vector * launch.itemsize
            end += -(-size // WIDEST) * WIDEST
    stages = max(2, min(8, budget // max(end, 1))) if budget else 1
    stages = min(stages, max(1, -(-launch.chunk // launch.tile_steps)))
    return dataclasses.replace(launch, views=views, stage_bytes=end, stages=stages)
