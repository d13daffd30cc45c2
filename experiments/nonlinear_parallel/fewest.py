"""K*(T): the fewest Newton iterations within a distance of the loop's states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments.harness.experiment import Point, Record
from experiments.nonlinear_parallel import cells, programs, reference


def fewest(point: Point, near: float, most: int) -> Iterator[Record]:
    """One record: the error after each iteration, and the first that is near enough."""
    name, length, width = point["cell"], point["length"], point["width"]
    task = cells.draw(name, width, point["gain"], point["input_scale"], length, point["seed"])
    truth = reference.trajectory(name, task)
    given = programs.on_device(task)
    states = programs.start(name, length, width).call(*given)
    errors = [_error(states, truth)]
    # One compiled iteration, called again and again: nothing depends on how many there are.
    iteration = programs.one_iteration(name, length, width)
    while not errors[-1] <= near and len(errors) <= most:
        states = iteration.call(*given, states)
        errors.append(_error(states, truth))
    reached = errors[-1] <= near
    yield {
        "point": point,
        "title": cells.CELLS[name].title,
        "fewest": len(errors) - 1 if reached else None,
        "errors": errors,
        "near": near,
        "most": most,
        "exponent": reference.growth(name, task, truth).exponent,
    }


def _error(states: object, truth: np.ndarray) -> float:
    return float(np.max(np.abs(cells.flat(states) - truth)))
