"""Names that hold anything: none steers a terminal, and every command can be typed."""

import subprocess
import sys

import pytest
from rich.text import Text

from experiments import __main__ as cli
from experiments.harness import report, run_folder, terminal
from experiments.harness.words import command, visible
from tests.experiments import toy
from tests.experiments.test_own_experiment import write

STEERING = ["\x1b[31m", "\x07", "\r", "\x9b2J", "\x08", "\x7f"]
STEERING += ["\u202e", "\u2066", "\u2028", "\ud800"]
NAMES = [
    "a b",
    "it's",
    "$(id)",
    "a;b",
    "*",
    "\\",
    "\x1b[31m'\\",
    "new\nline",
    "\u202eü",
    '"',
]


@pytest.mark.parametrize("steering", STEERING, ids=ascii)
def test_what_steers_a_terminal_is_an_escape(steering):
    shown = visible(f"a{steering}ü\n\t")
    assert shown.isascii() or shown.replace("ü", "").isascii()
    assert steering[0] not in shown
    assert shown.endswith("ü\n\t")
    assert visible(shown) == shown


@pytest.mark.parametrize("steering", STEERING[:-1], ids=ascii)
def test_standard_output_shows_it_so_wherever_it_comes_from(steering, capsys):
    console = terminal.output()
    console.print(f"a{steering}b", markup=False)
    console.print(Text(f"c{steering}d", style="bold"))
    console.rule(Text(f"e{steering}f"))
    shown = capsys.readouterr().out
    assert steering[0] not in shown
    assert all(letter in shown for letter in "abcdef")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_command_can_be_typed_whatever_its_path(name):
    """In bash; what holds no control character in every shell."""
    print_it = [sys.executable, "-c", "import os, sys; print(ascii(sys.argv[1]))", name]
    typed = command(*print_it)
    assert visible(typed) == typed
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii(name)


@pytest.mark.parametrize("name", ["a b", "it's $HOME", "\x1b[31m"], ids=ascii)
def test_the_command_of_a_report_quotes_its_path(tmp_path, name):
    facts = {
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "cpu": {"model": "a chip", "count": 2},
        "packages": {"jax": "0.10.2"},
    }
    folder = run_folder.make(tmp_path / name, "toy", toy.Config(), facts)
    report.write(folder, "toy", toy, [], "finished", True)
    page = folder.report.read_text()
    typed = command("python", "-m", "experiments", "run", folder.path / "config.json", "--runs")
    for character, escape in (("&", "&amp;"), ("'", "&#39;"), ('"', "&#34;")):
        typed = typed.replace(character, escape)
    assert typed in page
    assert "\x1b" not in page


def test_no_command_prints_a_name_raw(tmp_path, monkeypatch, capsys):
    name = "\x1b]0;title\x07\x1b[31m"
    monkeypatch.chdir(tmp_path)
    place = tmp_path / name
    write(place, "own_squares")
    runs = ["--runs", str(place / "runs")]
    monkeypatch.setattr(sys, "path", [*sys.path])
    for words in (
        ["run", str(place / "own_squares"), *runs],
        ["run", str(place / "own_squares"), "--dry-run", *runs],
        ["runs", *runs],
        ["report", *runs],
        ["run", name],
        ["run", str(place)],
        ["run", "digits", f"seeds={name}"],
        ["run", "digits", f"{name}=1"],
        ["report", name],
        ["compare", name, str(place)],
        ["sweep", str(place / "own_squares"), f"values=[[1]]{name}", *runs],
        ["sweep", str(place / "own_squares"), f"{name}=[1]", *runs],
    ):
        cli.main(words)
        told = capsys.readouterr()
        for text in (told.out, told.err):
            assert not {"\x1b", "\x07"} & {*text}, words
    for module in [module for module in sys.modules if module.startswith("own_squares")]:
        del sys.modules[module]
