"""Launches of `plan.py` for the host, as it lays them out and as no card would be given them."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from rnnscan.scan.cuda_kernel import plan as planner
from rnnscan.scan.cuda_kernel.problem import SLOTS, Launch
from tests.scan.cuda_host import build

AXES = 16  # of chains, in problem.h


def launch(what: Launch, arrays: Mapping, results: Mapping, seed: int = 0) -> build.Launch:
    slots = {name: np.asarray(arrays[name]) for name in what.operands if name != "messages"}
    slots |= {
        name: build.Result(results[name].shape, np.dtype(results[name].dtype))
        for name in what.results
    }
    if what.mode == "chained":
        slots["messages"] = build.Result((what.messages,), np.dtype(np.uint32), zeros=True)
    return build.Launch(
        problem=what.problem(AXES),
        slots=[slots.get(name) for name in SLOTS],
        grid=what.grid,
        block=what.block,
        shared_bytes=what.shared_bytes,
        seed=seed,
    )


def results_of(what: Launch, host: build.Launch, ran: build.Ran) -> dict[str, np.ndarray]:
    written = [name for name, x in zip(SLOTS, host.slots, strict=True) if hasattr(x, "zeros")]
    found = dict(zip(written, ran.results, strict=True))
    return {name: found[name] for name in what.results}


def on_host(what: Launch, arrays, results):
    """In place of `launch.launch`."""

    def call(*operands):
        host = launch(what, dict(zip(names, operands, strict=True)), results)
        found = results_of(what, host, build.library().run(host))
        return tuple(found[name] for name in what.results)

    names = [name for name in what.operands if name != "messages"]
    shapes = tuple(results[name] for name in what.results)
    found = jax.pure_callback(call, shapes, *(arrays[name] for name in names))
    return dict(zip(what.results, found, strict=True))


@dataclasses.dataclass(frozen=True)
class Tiny:
    """At most so many, of each; `budget`: bytes of shared memory for the stages of a warp."""

    vector: int
    lanes: int
    segments: int
    length: int
    warps: int
    tiles: int
    budget: int

    @classmethod
    def drawn(cls, rng):
        vector, tiles = int(rng.choice([8, 8, 4, 2, 1])), int(rng.integers(1, 4))
        lanes, segments = int(rng.choice([32, 8, 3, 2, 1])), int(rng.integers(1, 12))
        length, warps = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        return cls(vector, lanes, segments, length, warps, tiles, int(rng.integers(1, 20_000)))


def tiny_plan(kind, problem, shapes, mode, tiny: Tiny) -> tuple[Launch, ...]:
    """In place of `plan`: so little a tile that there are many of them."""
    base = planner._laid_out(kind, problem, shapes)
    base = dataclasses.replace(base, vector=min(base.vector, tiny.vector), mode=mode)
    lanes = min(tiny.lanes, base.units)
    segments = min(max(tiny.segments, 1 + base.along_time), 32 // lanes)
    base = dataclasses.replace(base, lanes=lanes, segments=segments, length=tiny.length)
    base = dataclasses.replace(base, warps=tiny.warps)
    if mode == "walk":
        return (planner._placed(base, tiny.budget),)
    chunk = base.tile_steps * (tiny.warps if mode == "chained" else tiny.tiles)
    split = dataclasses.replace(base, chunk=chunk, chunks=-(-base.steps // chunk))
    if mode == "chained":
        return (planner._placed(split, 0),)
    return tuple(planner._placed(each, tiny.budget) for each in (planner._reducing(split), split))
