"""Every method on one recurrence: iterations, error against float64, and time side by side."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.harness import limits
from experiments.harness.experiment import Point, Record
from experiments.harness.figures import short_bytes
from experiments.harness.progress import say
from experiments.harness.timing import Check, Contender, compare
from experiments.nonlinear_parallel import cells, programs, reference
from experiments.nonlinear_parallel.programs import NEWTON, PLAIN, Way

ROUNDING = 2.0**-24  # of a number below 1, in float32


def methods(point: Point, names: Sequence[str], most: int, **timing: Any) -> Iterator[Record]:
    """A record for the plain loop and for each method: what it found, then how long it took."""
    size = _size(point)
    if refusal := _too_large(point, names):
        yield {"point": point, **refusal}
        return
    say("the truth, in float64")
    task = _task(point)
    truth = reference.trajectory(point["cell"], task)
    shared = _shared(point, task, truth)
    given = programs.on_device(task)
    found: dict[str, Record] = {}
    ways = {name: Way(name, most, point["tol"]) for name in (PLAIN, *names)}
    loop = programs.timed(*size, ways[PLAIN])
    own = _error(loop.call(*given)[0], truth)
    shared["sequential_error"] = own
    found[PLAIN] = {"converged": True, "iterations": 0, "error": own}
    for name in names:
        say(name)
        states, *said = programs.timed(*size, ways[name]).call(*given)
        converged, iterations, residual = said
        found[name] = {
            "converged": bool(converged),
            "iterations": int(iterations),
            "residual": float(residual),
            "error": _error(states, truth),
        }
        if name in programs.CERTIFIED:
            _, convergence = programs.certified(*size, ways[name]).call(*given)
            found[name]["error_bound"] = float(convergence.error_bound)
    right = {name: way for name, way in ways.items() if found[name]["converged"]}
    times = _times(point, right, given, truth, own, **timing)
    for name, record in found.items():
        program = programs.timed(*size, ways[name])
        yield {
            "point": point,
            "method": name,
            **shared,
            **record,
            "most": most,
            "compile_seconds": program.compile_seconds,
            "temporary_bytes": program.temporary_bytes,
            **times.get(name, {}),
        }


def phase(point: Point, most: int, **timing: Any) -> Iterator[Record]:
    """One record: the exponent, Newton's iterations, and its time beside the plain loop's."""
    size = _size(point)
    task = _task(point)
    truth = reference.trajectory(point["cell"], task)
    shared = _shared(point, task, truth)
    given = programs.on_device(task)
    ways = {name: Way(name, most) for name in (PLAIN, NEWTON)}
    own = _error(programs.timed(*size, ways[PLAIN]).call(*given)[0], truth)
    states, converged, iterations, _ = programs.timed(*size, ways[NEWTON]).call(*given)
    times = _times(point, ways if converged else {}, given, truth, own, **timing)
    yield {
        "point": point,
        "method": NEWTON,
        **shared,
        "sequential_error": own,
        "converged": bool(converged),
        "iterations": int(iterations),
        "error": _error(states, truth),
        "most": most,
        **times.get(NEWTON, {}),
        "sequential_seconds": times.get(PLAIN, {}).get("seconds", []),
    }


def _size(point: Point) -> tuple[str, int, int]:
    return point["cell"], point["length"], point["width"]


def _task(point: Point) -> cells.Task:
    name, length, width = _size(point)
    return cells.draw(name, width, point["gain"], point["input_scale"], length, point["seed"])


def _shared(point: Point, task: cells.Task, truth: np.ndarray) -> Record:
    growth = reference.growth(point["cell"], task, truth)
    return {
        "exponent": growth.exponent,
        "overshoot": growth.overshoot,
        "largest": float(np.abs(truth).max()),
        "platform": jax.default_backend(),
    }


def _error(states: Any, truth: np.ndarray) -> float:
    """The largest over all steps and numbers; nan where a number is none."""
    return float(np.max(np.abs(cells.flat(states) - truth)))


def _times(
    point: Point,
    ways: dict[str, Way],
    given: Any,
    truth: np.ndarray,
    own: float,
    **timing: Any,
) -> dict[str, Record]:
    """Samples in seconds of what converged; each result is checked in the program that is timed."""
    if not ways:
        return {}
    # A time counts where the states are as good as the loop's to a digit; how good, is recorded.
    limit = 10 * (own + ROUNDING * float(np.abs(truth).max()))

    def check(output: Any) -> Check:
        return Check(_error(output[0], truth), limit, "float64, step by step")

    def contender(name: str) -> Contender:
        program = programs.timed(*_size(point), ways[name])
        # Already compiled, once for every gain and seed; so it is called as it is.
        call = functools.partial(_called, program)
        return Contender(name, call, given, check, eager=True)

    timings = compare([contender(name) for name in ways], watch=say, **timing)
    return {
        it.name: {"seconds": list(it.samples), "repeats": it.repeats, "counts": it.counts}
        for it in timings
    }


def _called(program: programs.Program, *given: Any) -> Any:
    return jax.block_until_ready(program.call(*given))


def _too_large(point: Point, names: Sequence[str]) -> Record:
    """Why not to try it; empty where the Jacobians of all steps fit, some times over."""
    if set(names) <= {programs.SEQUENTIAL}:
        return {}
    _, length, width = _size(point)
    shapes = cells.CELLS[point["cell"]].shapes(width)
    numbers = sum(int(np.prod(shape)) for shape in shapes)
    needed = 8 * 4 * length * numbers**2
    available = limits.memory_bytes() * 3 // 4
    if needed <= available:
        return {}
    reason = f"would need {short_bytes(needed)} of {short_bytes(available)} (predicted)"
    return {"skipped": reason, "predicted_bytes": needed}
