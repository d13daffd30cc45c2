"""One page that loads nothing, says what is unfinished, and shows what it is given as text."""

import io
import json
import re
import types

import pytest
from rich.console import Console

from experiments.harness import report, run_folder
from experiments.harness.experiment import Summary, Table, Verdict
from tests.experiments import toy

ENVIRONMENT = {
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    "cpu": {"model": "Chip <1>", "count": 2, "memory_bytes": None},
    "packages": {"jax": "0.10.2"},
}


def write(tmp_path, records, complete=True, status="finished: all 2 points measured"):
    folder = run_folder.make(tmp_path, "toy", toy.Config(label="<b>"), ENVIRONMENT)
    report.write(folder, "toy", toy, records, status, complete)
    return folder, folder.report.read_text()


RECORDS = [{"point": {"value": value}, "square": value**2} for value in (1, 2)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, page) of a finished run."""
    return write(tmp_path_factory.mktemp("runs"), RECORDS)


def test_the_page_loads_nothing(written):
    _, page = written
    assert "http" not in page
    assert not re.search(r"<(script|link|iframe)|@import", page)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)", page)
    assert sources
    assert all(
        source.startswith(("data:image/svg+xml;base64,", "data:text/csv;", "#"))
        for source in sources
    )


def test_the_page_holds_verdict_table_figure_config_and_environment(written):
    folder, page = written
    for expected in (
        "finished: all 2 points measured",
        ">confirmed<",
        "2 of them &amp; more",
        '<td>2</td><td class="number">4</td>',
        'download="squares.csv"',
        '<th scope="row">inner.steps</th><td>3</td>',
        '<th scope="row">packages.jax</th><td>0.10.2</td>',
        f"python -m experiments run {folder.path / 'config.json'}",
        "prefers-color-scheme: dark",
    ):
        assert expected in page


def test_what_comes_from_outside_is_text(written):
    _, page = written
    assert "Squares are &lt;squares&gt;." in page
    assert "Found on Chip &lt;1&gt;, 2 cores." in page
    assert '<th scope="row">label</th><td>&lt;b&gt;</td>' in page
    assert "<squares>" not in page
    assert "<b>" not in page


def test_figures_are_files_too(written):
    folder, _ = written
    assert (folder.path / "figures/squares.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (folder.path / "figures/squares.svg").read_bytes()


def test_an_unfinished_run_says_so(tmp_path):
    _, page = write(tmp_path, RECORDS[:1], False, "unfinished: 1 of 2 points measured")
    assert '<span class="badge unfinished">unfinished: 1 of 2 points measured' in page
    assert "badge finished" not in page


def test_what_was_left_out_is_told(tmp_path):
    skipped = {"point": {"value": 9}, "skipped": "needs 2 TiB of 1 GiB", "predicted_bytes": 2**41}
    _, page = write(tmp_path, [*RECORDS, skipped])
    assert "needs 2 TiB of 1 GiB" in page


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="row \\('1',\\) has 1 cells, should have 2"):
        Table("t", ("a", "b"), (("1",),))


@pytest.mark.parametrize("width", [70, 40])
def test_a_terminal_shows_whole_cells_and_the_columns_that_fit(width):
    columns = ("layer", "first", "a column that is wide", "last")
    table = Table("Numbers", columns, (("LRU", "1.25 ms [1.1, 1.3]", "2", "3"),), note="A note.")
    output = io.StringIO()
    report.show(Console(file=output, width=width), Summary(tables=(table,)), "a chip")
    shown = output.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "1.25 ms [1.1, 1.3]" in shown
    assert ("a column that is wide" in shown) == (width == 70)
    assert ("Further columns" in shown) == (width == 40)


def test_no_word_steers_a_terminal():
    table = Table("t\x1b", ("a\x1b", "b"), (("\x07\x1b[2J", "c"),), "n\x1b")
    output = io.StringIO()
    summary = Summary((Verdict("c\x1b", "open", "x\x1b"),), (table,))
    report.show(Console(file=output, width=70), summary, "d\x1b")
    assert output.getvalue().count("\\x1b") == 7
    assert "\x1b" not in output.getvalue()


def failing(*_):
    raise KeyError("loss <1>")


def write_with(tmp_path, **names):
    """(summary, page, folder) of a toy with other functions."""
    folder = run_folder.make(tmp_path, "toy", toy.Config(), ENVIRONMENT)
    experiment = types.SimpleNamespace(**{**vars(toy), **names})
    summary = report.write(folder, "toy", experiment, RECORDS, "finished", True)
    return summary, folder.report.read_text(), folder


def test_figures_that_fail_leave_tables_and_verdicts(tmp_path):
    summary, page, _ = write_with(tmp_path, plot=failing)
    assert len(summary.failures) == 1
    assert re.search(
        r"figures all: KeyError: 'loss <1>' \(experiments/test_report.py, line \d+\)",
        summary.failures[0],
    )
    assert "figures all: KeyError: &#39;loss &lt;1&gt;&#39;" in page
    assert '<td>2</td><td class="number">4</td>' in page
    assert ">confirmed<" in page


def test_a_figure_that_fails_leaves_the_others(tmp_path):
    def plot(records):
        class Broken:
            savefig = failing

        return {"broken": Broken(), "nothing": None, **toy.plot(records)}

    summary, page, folder = write_with(tmp_path, plot=plot)
    assert [failure.split(":")[0] for failure in summary.failures] == [
        "figure broken",
        "figure nothing",
    ]
    assert 'download="squares.csv"' in page
    assert {path.name for path in (folder.path / "figures").iterdir()} == {
        "squares.png",
        "squares.svg",
    }


def test_figures_stay_in_their_folder(tmp_path):
    def plot(records):
        (figure,) = toy.plot(records).values()
        return dict.fromkeys(("../../up", "a/b", "..", "", "a\0", "long" * 70, 1, "of (1)"), figure)

    summary, _, folder = write_with(tmp_path, plot=plot)
    assert len(summary.failures) == 7
    assert "figure ../../up: ValueError: '../../up' should be the name of" in summary.failures[0]
    assert {path.name for path in folder.path.rglob("*.svg")} == {"of (1).svg"}
    assert not list(tmp_path.glob("up*"))


def test_a_folder_that_takes_no_report_says_what_helps(tmp_path):
    folder = run_folder.make(tmp_path, "toy", toy.Config(), ENVIRONMENT)
    folder.report.mkdir()
    with pytest.raises(run_folder.RunFolderError, match="report a copy of the folder"):
        report.write(folder, "toy", toy, RECORDS, "finished", True)


def test_what_has_no_utf_8_is_written_as_an_escape(tmp_path):
    half = [{"point": {"value": "\ud800"}, "square": 1}]
    folder = run_folder.make(tmp_path / "by\udcffte", "toy", toy.Config(), ENVIRONMENT)
    report.write(folder, "toy", toy, half, "finished", True)
    page = folder.report.read_text(encoding="utf-8")
    assert "<td>\\ud800</td>" in page
    assert "by\\udcffte" in page


@pytest.mark.parametrize(
    "summary",
    [
        failing,
        lambda records: None,
        lambda records: Summary((Verdict("c", "perhaps", "text"),)),
        lambda records: Summary(tables=(Table("t", ("a", "b"), (("1",),)),)),
        lambda records: Summary(tables=(Table("t", ("a", "b"), ((1, None),)),)),
        lambda records: Summary(tables=(Table("t", ("a",), (("1",),), note=5),)),
        lambda records: Summary(tables=Table("t", ("a",), ())),
        lambda records: Summary(tables=None),
        lambda records: Summary(("a claim",)),
        lambda records: Summary((Verdict("c", "open", None),)),
        lambda records: Summary((Verdict("c", "open", "text", value=0.5),)),
    ],
)
def test_a_summary_that_fails_leaves_records_and_figures(tmp_path, summary):
    said, page, _ = write_with(tmp_path, summary=summary)
    assert said.failures[0].startswith("tables and verdicts: ")
    assert 'download="squares.csv"' in page
    assert json.dumps(RECORDS[0]).replace('"', "&#34;") in page


def test_figures_see_literal_text_and_captions_are_as_written(tmp_path):
    def plot(records):
        (figure,) = toy.plot(records).values()
        figure.set_label(f"of {records[0]['point']['layer']}")
        return {"squares": figure}

    folder = run_folder.make(tmp_path, "toy", toy.Config(), ENVIRONMENT)
    experiment = types.SimpleNamespace(**{**vars(toy), "plot": plot})
    records = [{"point": {"value": 1, "layer": "$\\frac{$"}, "square": 1}]
    report.write(folder, "toy", experiment, records, "finished", True)
    assert "<figcaption>of $\\frac{$\n" in folder.report.read_text()
