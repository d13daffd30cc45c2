"""`closed_form`: a tiny run by the command line, the counts, and what its records mean."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments.closed_form import contenders, experiment, present, reference, work
from experiments.closed_form.contenders import contender, make_task
from experiments.closed_form.work import METHODS
from experiments.harness import registry, run_folder
from experiments.harness.config import ConfigError, resolve
from experiments.harness.race import BOTH, FORWARD
from rnnscan.scan.linear_methods import associative
from rnnscan.scan.matrix_methods import blocked
from rnnscan.scan.matrix_methods.diagonal import condition_number
from rnnscan.scan.product import matrix
from rnnscan.scan.time_axis import TimeAxis

TINY = dict(
    literal_widths=[3],
    literal_lengths=[11],
    conditions=[4.0, 1e9],
    condition_length=40,
    condition_seeds=1,
    widths=[3],
    lengths=[12],
    directions=[BOTH],
    rounds=3,
    sample_seconds=1e-9,
    budget_seconds=0.1,
    product_size=16,
)
OVERRIDES = [f"{key}={json.dumps(value)}" for key, value in TINY.items()]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """(exit code, run folder) of one point of each kind but two conditions."""
    runs = tmp_path_factory.mktemp("runs")
    code = command_line.main(["run", "closed_form", *OVERRIDES, "--runs", str(runs)])
    return code, run_folder.latest(runs)


def test_every_method_is_right(tiny_run):
    code, folder = tiny_run
    assert code == 0
    assert folder.finished
    records = folder.records()
    for measure in ("literal", "time"):
        found = [r for r in records if r["point"]["measure"] == measure and "method" in r]
        assert [r["method"] for r in found] == list(METHODS)
        for record in found:
            assert record["counts"]
            assert 0 <= record["error"] <= record["tolerance"]
    for record in found:
        assert min(record["seconds"]) > 0
        assert record["limit_seconds"] > 0
    assert present.summary(records).verdicts[0].outcome == "open"  # nothing forward was timed


def test_bad_eigenvectors_are_told_and_refused(tiny_run):
    records = [r for r in tiny_run[1].records() if r["point"]["measure"] == "condition"]
    by = {(r["point"]["condition"], r["method"]): r for r in records}
    assert by[4.0, "diagonal"]["condition"] == pytest.approx(4.0)
    assert by[4.0, "diagonal"]["available"]
    assert not by[1e9, "diagonal"]["available"]
    assert f"{by[1e9, 'diagonal']['condition']:.3g}" in by[1e9, "diagonal"]["reason"]
    for method in METHODS[:3]:
        assert by[1e9, method]["available"]
        assert by[1e9, method]["error"] < 1e-6 < by[1e9, "diagonal"]["error"]


def test_the_literal_formula_by_hand():
    """W = 2, u = (1, 1), h0 = 3: 2 * 3 + 1, then 4 * 3 + 2 + 1."""
    W, u, h0 = np.array([[2.0]]), np.ones((2, 1)), np.array([3.0])
    np.testing.assert_array_equal(reference.literal(W, u, h0), [[7.0], [15.0]])
    found = reference.evaluate(W, u, h0, np.ones((2, 1)))
    np.testing.assert_array_equal(found["h"], [[7.0], [15.0]])
    np.testing.assert_array_equal(found["u"], [[3.0], [1.0]])
    np.testing.assert_array_equal(found["W"], [[3 * 3.0 + 1 * 7.0]])
    np.testing.assert_array_equal(found["h0"], [6.0])


@pytest.mark.parametrize("condition", [1.0, 4.0, 1024.0])
def test_eigenvectors_are_as_bad_as_asked(condition):
    W = contenders.coupled_pairs(condition, seed=1)
    assert W.shape == (contenders.PAIRED_WIDTH, contenders.PAIRED_WIDTH)
    assert condition_number(W) == pytest.approx(condition, rel=1e-3)
    assert np.linalg.norm(W, 2) < 1.7


def test_jordan_blocks_have_too_few():
    W = contenders.coupled_pairs(1e9, seed=1).astype(np.float64)
    values = np.linalg.eigvals(W)
    value = values[0].real
    rank = np.linalg.matrix_rank(W - round(value * 64) / 64 * np.eye(len(W)), tol=1e-6)
    assert rank == len(W) - 1  # a double eigenvalue with one eigenvector
    with pytest.raises(ValueError, match=r"condition: got 0\.5"):
        contenders.coupled_pairs(0.5, seed=1)


def multiplications(method, length, width):
    """Those of the products in a method's own program, which has no loop."""
    A, h0 = jnp.ones((1, width, width)), jnp.ones((1, width))
    b = jnp.ones((length, width))
    evaluate = {"associative": associative, "blocked": blocked}[method].evaluate
    product, time = matrix("highest"), TimeAxis(0, length, False)
    jaxpr = jax.make_jaxpr(lambda A, b, h0: evaluate(product, time, A, b, h0, None))(A, b, h0)
    return sum(_multiplications(jaxpr.jaxpr))


def _multiplications(jaxpr):
    for equation in jaxpr.eqns:
        assert equation.primitive.name not in ("while", "scan")
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _multiplications(inner)
        if equation.primitive.name == "dot_general":
            left, _ = (variable.aval for variable in equation.invars)
            ((contracted, _), _) = equation.params["dimension_numbers"]
            terms = np.prod([left.shape[i] for i in contracted])
            yield int(terms * np.prod(equation.outvars[0].aval.shape))


@pytest.mark.parametrize("length", [1, 8, 9, 64, 100])
@pytest.mark.parametrize("method", ["associative", "blocked"])
def test_work_is_what_the_programs_do(method, length):
    assert work.cost(method, length, 3).work == multiplications(method, length, 3)


def test_costs_by_hand():
    assert work.cost("sequential", 10, 3) == work.Cost(90, 10)
    # Two steps: the state enters the first, and one composition gives the second.
    assert work.cost("associative", 2, 3) == work.Cost(9 + 36, 2)
    # Sixteen: one block is reduced, to one step; one product there; eight for both blocks.
    assert work.cost("blocked", 16, 3) == work.Cost((7 + 1 + 16) * 9 + 3 * 27, 3 + 1 + 8)
    assert work.cost("diagonal", 4, 2) == work.Cost(4 * 5 * 4 + 32 + 17 * 8, 6)
    assert work.least(FORWARD, 5, 3).flops == 90
    assert work.least(BOTH, 5, 3).bytes == 4 * 5 * 5 * 3


@pytest.mark.parametrize("method", METHODS)
def test_a_result_that_is_slightly_wrong_does_not_pass(method):
    task = make_task(length=9, width=3, seed=0)
    it = contender(task, method, BOTH)
    output = jax.jit(it.function)(*it.arguments)
    assert it.check(output).passed
    for i, array in enumerate(output):
        wrong = [*output]
        wrong[i] = array.at[(0,) * array.ndim].add(1e-2 * jnp.max(jnp.abs(array)))
        assert not it.check(tuple(wrong)).passed
    assert not it.check((output[0].at[0, 0].set(np.nan), *output[1:])).passed


def test_too_large_is_recorded_and_never_tried(monkeypatch):
    monkeypatch.setattr(experiment, "contender", lambda *_: pytest.fail("was tried"))
    for limit, reason in (
        ({"max_bytes": 100}, "would need"),
        ({"max_seconds": 1e-9}, "would take"),
    ):
        values = {**TINY, "directions": (FORWARD,), **limit}
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        config = experiment.Config(**values)
        point = experiment.plan(config)[-1]
        records = [r for r in experiment.run(config, [point]) if "skipped" in r]
        assert [r["method"] for r in records] == list(METHODS)
        assert all(reason in r["skipped"] and r["predicted_bytes"] > 0 for r in records)
        assert present.plot(records) == {}
        assert present.summary(records).verdicts[0].outcome == "open"


def literal(error=1e-16):
    point = {"measure": "literal", "width": 3, "length": 8}
    counts = error <= 1e-14
    return {
        "point": point,
        "method": "blocked",
        "error": error,
        "tolerance": 1e-14,
        "counts": counts,
    }


def timed(method, seconds, spread=0.0, counts=True, direction=FORWARD):
    cost = work.cost(method, 64, 4)
    return {
        "point": {"measure": "time", "direction": direction, "width": 4, "length": 64},
        "method": method,
        "seconds": [seconds * (1 - spread), seconds, seconds * (1 + spread)],
        "work": cost.work,
        "span": cost.span,
        "limit_seconds": 0.1,
        "error": 1e-7,
        "tolerance": 1e-6,
        "counts": counts,
    }


LOOP = timed("sequential", 1.0)


@pytest.mark.parametrize(
    ("records", "outcome", "text"),
    [
        ([], "open", "not evaluated yet"),
        ([literal()], "open", "No parallel method"),
        ([literal(), LOOP], "open", "No parallel method"),
        ([literal(1e-3), LOOP], "refuted", "1.0e-03, more than"),
        ([literal(), LOOP, timed("blocked", 0.5, counts=False)], "refuted", "blocked gave wrong"),
        ([literal(), LOOP, timed("blocked", 0.5)], "refined", "blocked, is 2 times as fast"),
        ([literal(), LOOP, timed("blocked", 4.0)], "refined", "4 times as slow"),
        ([literal(), LOOP, timed("blocked", 0.9, 0.5)], "refined", "no faster than the loop"),
    ],
)
def test_the_verdict_follows_from_the_records(records, outcome, text):
    (verdict,) = present.summary(records).verdicts
    assert (verdict.outcome, verdict.number) == (outcome, 6)
    assert text in verdict.text


def test_figures_of_any_subset():
    condition = {
        "point": {"measure": "condition", "condition": 4.0},
        "method": "diagonal",
        "error": 1e-6,
        "condition": 4.0,
        "available": True,
    }
    assert list(present.plot([condition])) == ["closed_form"]
    both = [LOOP, timed("blocked", 2.0), timed("blocked", 3.0, direction=BOTH)]
    figures = present.plot(both)
    assert list(figures) == ["closed_form", "time", "share_of_limit"]
    assert len(figures["closed_form"].axes) == 4
    assert len(figures["time"].axes) == 2
    tables = present.summary([literal(), *both, timed("diagonal", 1.0, counts=False)]).tables
    assert tables[-1].title.startswith("Not counted")


@pytest.mark.parametrize("name", ["default", "small"])
def test_configs_are_valid(name):
    (file,) = [file for file in registry.configs("closed_form") if file.path.stem == name]
    config = resolve(experiment.Config, file.values, [])
    points = experiment.plan(config)
    assert len({json.dumps(point) for point in points}) == len(points)
    assert all(experiment.describe(point) for point in points)


def test_bad_configs_are_told():
    with pytest.raises(ConfigError, match="conditions"):
        resolve(experiment.Config, {"conditions": [0.5]}, [])
    with pytest.raises(ConfigError, match="widths should hold no value twice"):
        resolve(experiment.Config, {"widths": [4, 4]}, [])


NAN = float("nan")
SPOILT = {
    "nan times": [LOOP, {**timed("blocked", 1.0), "seconds": [NAN] * 3}],
    "zero times": [{**LOOP, "seconds": [0.0] * 3}, timed("blocked", 1.0)],
    "beyond the limit": [LOOP, timed("blocked", 0.05)],
    "no limit": [{**LOOP, "limit_seconds": NAN}, timed("blocked", 0.5)],
    "single samples": [{**r, "seconds": [1.0]} for r in (LOOP, timed("blocked", 0.5))],
    "nan error": [LOOP, {**timed("blocked", 0.5, counts=False), "error": NAN}],
}


@pytest.mark.parametrize("name", SPOILT)
def test_no_verdict_rests_on_what_contradicts_itself(name):
    records = [literal(), *SPOILT[name]]
    present.plot(records)
    summary = present.summary(records)
    assert summary.verdicts[0].outcome == "open"
    assert "nan" not in str(summary)
    if name == "beyond the limit":
        assert "mismeasured on a busy machine" in summary.verdicts[0].text


def test_a_formula_that_gives_no_number_is_not_refuted():
    records = [{**literal(NAN), "counts": False}, literal()]
    summary = present.summary(records)
    assert summary.verdicts[0].outcome == "open"
    assert "nan" not in str(summary)
