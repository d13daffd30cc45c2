"""Every fault of a config is reported at once, with its path, its value and what would be right."""

import json
import re
import sys

import pytest

import experiments
from experiments import __main__ as command_line
from experiments.harness import registry
from experiments.harness.config import ConfigError, parse_override, read, resolve
from experiments.harness.experiment import ProtocolError
from tests.experiments import toy


def faults_of(values, *overrides):
    with pytest.raises(ConfigError) as error:
        resolve(toy.Config, values, overrides)
    return error.value.faults


def test_all_faults_at_once():
    values = {"vlaues": [1], "values": [1, "2", True], "inner": {"steps": 0, "kind": "odd", "x": 1}}
    faults = faults_of(values, "pause=[1", "label", "inner.steps.deep=3", "maybe.step=4")
    found = "\n".join(faults)
    assert len(faults) == 10
    for expected in (
        "override 'pause=[1': '[1' is not a TOML value",
        "override 'label': should read key.path=VALUE",
        "override inner.steps.deep: inner.steps = 0 is a value, not a table",
        'values[1] = "2": should be a valid integer',
        "values[2] = true: should be a valid integer",
        "inner.steps = 0: should be greater than 0",
        "inner.kind = \"odd\": should be 'plain' or 'fancy'",
        "inner.x = 1: no such key; known here: steps, kind",
        "maybe.step = 4: no such key; did you mean steps? known here: steps, kind",
        "vlaues = [1]: no such key; did you mean values? known here: values, pause",
    ):
        assert expected in found


def test_faults_in_a_table_of_a_chosen_kind_have_the_path_of_the_file():
    shapes = [
        {"kind": "round", "radius": -1.0},
        {"kind": "square", "side": 1.0, "sde": 2},
        {"kind": "square"},
        {"kind": "square", "side": 10.0},
        {"kind": "oval"},
        {},
        1,
    ]
    faults = faults_of({"shapes": shapes})
    assert faults[:3] == (
        "shapes[0].radius = -1.0: should be greater than 0",
        "shapes[1].sde = 2: no such key; did you mean side? known here: kind, side",
        "shapes[2].side: missing, and it has no default",
    )
    assert faults[3] == 'shapes[3] = {"kind": "square", "side": 10.0}: side should be 9 at most'
    assert faults[4].startswith('shapes[4] = {"kind": "oval"}: ')
    assert "'round', 'square'" in faults[4]
    assert faults[5:] == (
        "shapes[5] = {}: should say its 'kind'",
        "shapes[6] = 1: should be a table of its keys",
    )


def test_an_array_is_not_called_too_short_for_a_bad_item():
    assert faults_of({"values": ["1"]}) == ('values[0] = "1": should be a valid integer',)
    assert len(faults_of({"values": []})) == 1


def test_a_fault_between_fields_says_what_would_be_right():
    assert faults_of({"pause": 1000.0}) == ("pause should be below 100",)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("a=3", ("a",), 3),
        ("a.b-c.d_e=0.5", ("a", "b-c", "d_e"), 0.5),
        ("a=true", ("a",), True),
        ("a=LRU", ("a",), "LRU"),
        ("a=runs/x.toml", ("a",), "runs/x.toml"),
        ('a="two words"', ("a",), "two words"),
        ("a='b=c'", ("a",), "b=c"),
        ("a=[1, 2]", ("a",), [1, 2]),
        ("a={b = 1}", ("a",), {"b": 1}),
        ("a=-1e-3", ("a",), -1e-3),
    ],
)
def test_override_syntax(override, path, value):
    assert parse_override(override) == (path, value)


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", ".a=1", "a=", "a=two words", "a=1\nb=2"])
def test_bad_overrides_are_refused(override):
    with pytest.raises(ConfigError, match="override"):
        parse_override(override)


def test_overrides_merge_into_tables_and_the_last_one_wins():
    config = resolve(
        toy.Config, {"inner": {"steps": 5}}, ["inner.kind=fancy", "values=[1]", "values=[7, 8]"]
    )
    assert config == toy.Config(values=(7, 8), inner=toy.Inner(steps=5, kind="fancy"))


def test_the_values_handed_in_stay_as_they_were():
    values = {"inner": {"steps": 5}}
    resolve(toy.Config, values, ["inner.steps=6"])
    assert values == {"inner": {"steps": 5}}


def test_types_are_strict_but_an_integer_is_a_float():
    assert resolve(toy.Config, {"pause": 1}).pause == 1.0
    assert faults_of({"pause": "1"}, "label=3", "values=[1.0]") == (
        "values[0] = 1.0: should be a valid integer",
        'pause = "1": should be a valid number',
        "label = 3: should be a valid string",
    )
    assert "finite" in faults_of({"pause": float("inf")})[0]


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        toy.Config().pause = 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lengths = [1", "not valid TOML"),
        ("lengths = [1]", "experiment: missing"),
        ("experiment = 3", "experiment = 3: should be a string"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_a_config_is_found_by_name_by_path_and_as_json(tmp_path):
    by_name = registry.find_config("wallclock")
    assert by_name.experiment == "wallclock"
    assert by_name.takes
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"experiment": "wallclock", "width": 4}))
    assert registry.find_config(str(path)).values == {"width": 4}
    assert registry.find_config(str(tmp_path)).values == {"width": 4}


def test_an_unknown_experiment_is_told_the_known_ones(tmp_path):
    with pytest.raises(registry.UnknownExperimentError, match=r"did you mean wallclock\?"):
        registry.find_config("wallclok")
    path = tmp_path / "config.toml"
    path.write_text('experiment = "nothing"')
    with pytest.raises(ConfigError, match=r"no such experiment; should be one of .*wallclock"):
        registry.find_config(str(path))


def test_a_layer_without_a_name_has_that_of_its_kind():
    wallclock = registry.load("wallclock").Config
    found = resolve(wallclock, {"layers": [{"kind": "GRU"}, {"kind": "GRU", "name": "other"}]})
    assert [layer.name for layer in found.layers] == ["GRU", "other"]
    with pytest.raises(ConfigError, match=r"\['GRU'\] appear more than once.* give each layer a"):
        resolve(wallclock, {"layers": [{"kind": "GRU"}, {"kind": "GRU"}]})
    with pytest.raises(ConfigError, match=r"layers\[0\].*kind") as error:
        resolve(wallclock, {"layers": [{"width": 3}]})
    assert len(error.value.faults) == 1


@pytest.mark.parametrize("name", registry.names())
def test_every_config_in_the_tree_is_valid(name):
    for file in registry.configs(name):
        assert file.experiment == name
        assert file.takes, f"{file.path} should say how long it takes"
        experiment = registry.load(name)
        points = experiment.plan(resolve(experiment.Config, file.values, where=str(file.path)))
        assert points
        assert json.loads(json.dumps(points)) == points
        assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)


DEEP = {
    "arrays.toml": "experiment = 'toy'\na = " + "[" * 5000 + "]" * 5000,
    "keys.toml": "experiment = 'toy'\n" + ".".join("a" * 3000) + " = 1",
    "arrays.json": '{"experiment": "toy", "a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "some.json": '{"experiment": "toy", "a": ' + "[" * 300 + "]" * 300 + "}",
}


@pytest.mark.parametrize("name", DEEP)
def test_a_file_that_is_nested_too_deep_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text(DEEP[name])
    with pytest.raises(ConfigError, match=f"(?s){path}.*nested too deep"):
        resolve(toy.Config, read(path).values, where=str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=" + "[" * 5000, "override a: nested too deep"),
        ("values=" + "[" * 300 + "]" * 300, "nested too deep"),
        (".".join("a" * 5000) + "=1", "nested too deep"),
        ("inner.steps=" + "9" * 5000, r"override inner.steps: .*4300 digits"),
        ("inner.steps=0x" + "f" * 5000, r"override inner.steps: .*4300 digits"),
    ],
)
def test_an_override_without_end_is_a_fault(override, message):
    with pytest.raises(ConfigError, match=message):
        resolve(toy.Config, {}, [override])


@pytest.mark.parametrize("text", ["a = 0x" + "f" * 5000, "a = " + "9" * 5000])
def test_an_integer_without_end_is_a_fault_of_the_file(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(f"experiment = 'toy'\n{text}")
    with pytest.raises(ConfigError, match=f"{path}: not valid TOML: .*4300 digits"):
        read(path)


def test_text_that_is_no_unicode_is_a_fault_of_the_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"experiment": "toy", "label": "\\ud800"}')
    with pytest.raises(ConfigError, match=f"{path}: not valid JSON: .*surrogates"):
        read(path)


@pytest.mark.parametrize("path", ["a\0b.toml", "\ud800.toml", "a" * 300, "a" * 5000 + ".toml", "/"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises((ConfigError, registry.UnknownExperimentError)):
        registry.find_config(path)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes an experiment of one's own, beside one that works."""

    def write(text, name="own"):
        folder = tmp_path / name
        (folder / "configs").mkdir(parents=True)
        (folder / "configs" / "default.toml").write_text(f'experiment = "{name}"')
        (folder / "experiment.py").write_text(text)
        return folder / "experiment.py"

    write("from tests.experiments.toy import *\nfrom tests.experiments.toy import Config", "works")
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    yield write
    for name in [name for name in sys.modules if re.match(r"experiments\.(own|works)\b", name)]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def plan(config:", r"cannot be imported: SyntaxError: .*experiment\.py, line 1"),
        ("\nimport a_missing_package", r"No module named 'a_missing_package' \(own/exp.*, line 2"),
        ("1 / 0", r"cannot be imported: ZeroDivisionError"),
        ("CLAIM = 'x'", r"own/experiment\.py does not follow .*plan: missing; should be"),
    ],
)
def test_an_experiment_that_is_broken_is_refused_and_hides_no_other(own, capsys, text, message):
    own(text)
    with pytest.raises(ProtocolError, match=f"(?s)^own: .*{message}"):
        registry.load("own")
    assert command_line.main(["run", "own"]) == 2
    assert capsys.readouterr().err.startswith("own: ")
    assert command_line.main(["list"]) == 0
    assert "Squares are <squares>." in capsys.readouterr().out
