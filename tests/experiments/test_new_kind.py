"""A kind is one row: a new one goes through every experiment, one that is none fails everywhere."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optax", reason="needs rnnscan[experiments]")
pytest.importorskip("sklearn", reason="needs rnnscan[experiments]")

from experiments import __main__ as command_line
from experiments.gradient_decay.records import groups
from experiments.harness import config as harness_config
from experiments.harness import figures, registry
from experiments.harness.gradient_figures import layer_looks
from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import by_default
from experiments.training_and_inference import present
from experiments.wallclock import contenders, costs
from experiments.wallclock.verdicts import returns
from rnnscan.tasks.acsf1 import CARRIERS
from tests import quick

ROOT = Path(__file__).parents[2]
TAKES_LAYERS = [
    name for name in registry.names() if "layers" in registry.load(name).Config.model_fields
]


def test_a_new_row_goes_through_every_experiment():
    there = {*TAKES_LAYERS, "any_length", "parameter_sharing"}
    if not any(importlib.util.find_spec(package) for package in CARRIERS):
        there -= {"long_sequences"}
    command = [sys.executable, "-m", "tests.experiments.new_kind", *there]
    env = quick.environment()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split(":")[0] for line in done.stdout.splitlines()} == there


@pytest.mark.parametrize(
    "look_up",
    [
        lambda: KINDS["Transformer"],
        lambda: figures.line_style("Transformer"),
        lambda: layer_looks({"mine": "Transformer"}),
        lambda: by_default("Transformer"),
        lambda: contenders.ways("Transformer", ()),
        lambda: contenders.program("Transformer", "auto", contenders.FORWARD),
        lambda: costs.look({"kind": "Transformer"}),
        lambda: present.span("Transformer", 8),
        lambda: returns([{"kind": "Transformer"}]),
        lambda: groups([{"kind": "Transformer"}]),
    ],
)
def test_what_is_no_kind_is_told_those_that_there_are(look_up):
    with pytest.raises(LookupError, match=r"no such kind of layer as 'Transformer'.*RNN, .*MLP"):
        look_up()


@pytest.mark.parametrize("name", TAKES_LAYERS)
def test_a_config_with_what_is_no_kind_is_refused(name):
    values = {"layers": [{"name": "new", "kind": "Transformer"}]}
    with pytest.raises(harness_config.ConfigError) as caught:
        harness_config.validate(registry.load(name).Config, values)
    assert "layers[0]" in str(caught.value)
    assert "'CausalSelfAttention'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "fault"),
    [
        *((n, "MLP", "has one output for a whole sequence") for n in ("recall", "characters")),
        *(("digits", kind, "has no recurrent state") for kind in ("MLP", "CausalSelfAttention")),
        *(("digits", kind, "is as wide as its input") for kind in ("SelectiveSSM", "Mamba")),
    ],
)
def test_a_kind_without_what_an_experiment_needs_is_refused(name, kind, fault):
    layers = [{"name": "good", "kind": "GRU"}, {"name": "bad", "kind": kind}]
    with pytest.raises(harness_config.ConfigError) as caught:
        harness_config.validate(registry.load(name).Config, {"layers": layers})
    (said,) = caught.value.faults
    assert said.startswith(f'layers[1].kind = "{kind}": {fault}; {name} ')


def test_windows_are_of_kinds_that_answer_at_each_step():
    values = {"windowed": ["MLP", "GRU", "Transformer"]}
    with pytest.raises(harness_config.ConfigError) as caught:
        harness_config.validate(registry.load("any_length").Config, values)
    for words in (
        'windowed[0] = "MLP": has one output',
        'windowed[2] = "Transformer": no such kind',
    ):
        assert words in str(caught.value)


def test_the_command_line_says_it_and_measures_nothing(capsys):
    layers = '[{name = "net", kind = "MLP"}]'
    assert command_line.main(["run", "recall", f"layers={layers}"]) == 2
    assert 'layers[0].kind = "MLP": has one output' in capsys.readouterr().err
