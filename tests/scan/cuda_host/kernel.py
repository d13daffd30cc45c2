"""Launches of `plan.py` for the host, in its own layout and in layouts that no card would be given."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from rnnscan.scan.cuda_kernel import plan as planner
from rnnscan.scan.cuda_kernel.plan import SLOTS, Launch
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


def tiny_plan(kind, problem, shapes, mode, rng) -> tuple[Launch, ...]:
    """In place of `plan`: so few steps and chains a tile, drawn, that there are many of them."""
    base = planner._laid_out(kind, problem, shapes)
    narrow = [v for v in (1, 2, 4, 8) if base.vector % v == 0]
    vector = int(rng.choice([base.vector, *narrow]))
    base = dataclasses.replace(base, vector=vector, mode=mode)
    units = base.inner if base.along_time else base.inner // base.vector
    lanes = int(rng.integers(1, min(units, 32) + 1))
    segments = int(rng.integers(1 + base.along_time, 32 // lanes + 1))  # along time there are some
    length = int(rng.integers(1, 4))
    tile = segments * length * (base.vector if base.along_time else 1)
    base = dataclasses.replace(base, lanes=lanes, segments=segments, length=length)
    warps = int(rng.integers(1, 4))
    if mode == "walk":
        base = dataclasses.replace(base, warps=warps)
        return (planner._placed(base, int(rng.integers(1, 20_000))),)
    tiles = warps if mode == "chained" else int(rng.integers(1, 4))
    chunk = tile * tiles
    split = dataclasses.replace(base, warps=warps, chunk=chunk, chunks=-(-base.steps // chunk))
    if mode == "chained":
        return (planner._placed(split, 0),)
    split = planner._placed(split, int(rng.integers(1, 20_000)))
    return planner._reducing(split), split
