"""A page escapes what it is given, and a figure says what it shows, as CSV and in words."""

import base64
import csv
import html
import io
import re
import shutil
import subprocess

import numpy as np
import pytest

from experiments.harness import figure_data, figures, page
from experiments.harness.experiment import Table, Verdict

EVIL = """<script>alert("1")</script>'&"""
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def rows_of(figure):
    return list(csv.DictReader(io.StringIO(figure_data.csv_text(figure))))


def everything(word):
    figure, axes = figures.new_figure()
    axes[0, 0].plot([1, 2], [3, 4], label=word)
    return page.render(
        word,
        word,
        [
            page.Section(
                word,
                (
                    Table(word, (word, word), ((word, word),), word),
                    Verdict(word, "open", word),
                    page.Image(word, word, word, b"<svg/>", word),
                    figures.image(word, figure),
                    page.Facts(word, {word: {word: word}}),
                    page.Text(word),
                    page.Text(word, "code"),
                ),
            )
        ],
        ("open", word),
        word,
    )


def test_every_word_from_outside_is_escaped():
    shown = everything(EVIL)
    assert "<script" not in shown
    assert 'alert("' not in shown
    assert html.escape(EVIL, quote=False).split("alert")[0] in shown
    downloads = re.findall(r'download="([^"]*)"', shown)
    assert downloads == ["script_alert_1_script.csv"] * 3


def test_contents_lead_to_what_is_there():
    shown = everything("word")
    targets = re.findall(r'href="#([^"]*)"', shown)
    assert len(targets) == len(set(targets)) == 5
    assert [shown.count(f' id="{target}"') for target in targets] == [1] * 5
    assert "None" not in shown


def test_a_section_without_parts_is_left_out():
    assert "Nothing" not in page.render("a", "b", [page.Section("Nothing", ())])


def test_a_table_is_a_csv_file_too():
    shown = page.render("a", "b", [page.Section("s", (Table("t", ("x, y", "z"), (("1", "2"),)),))])
    (data,) = re.findall(r"data:text/csv;charset=utf-8;base64,([^\"]*)", shown)
    assert base64.b64decode(data) == b'"x, y",z\n1,2\n'


def test_lines_and_bands_are_rows():
    figure, axes = figures.new_figure(1, 2)
    figures.draw_band(axes[0, 0], [1, 2], [[0, 1, 2], [2, 3, 4]], color="#00674c", label="a $x$")
    axes[0, 1].plot([5], [6], color="#00674c")  # the same look in a second panel: no second label
    axes[0, 1].axhline(0.5, color="#000000", label="chance")
    axes[0, 1].plot([1, 2], [np.nan, 1], color="#0000ff")
    axes[0, 1].set_title("right", loc="left")
    rows = [tuple(row.values()) for row in rows_of(figure)]
    assert rows == [
        ("panel 1", "a $x$", "1", "1", "", ""),
        ("panel 1", "a $x$", "2", "3", "", ""),
        ("panel 1", "a $x$", "1", "", "0.5", "1.5"),
        ("panel 1", "a $x$", "2", "", "2.5", "3.5"),
        ("right", "a $x$", "5", "6", "", ""),
        ("right", "chance", "", "0.5", "", ""),
        ("right", "", "2", "1", "", ""),
    ]


def test_dots_on_named_rows_carry_the_names():
    figure, axes = figures.new_figure()
    figures.dot_rows(axes[0, 0], {"LRU": [1.0, 3.0], "GRU": [5.0]}, label="seed")
    rows = [(row["series"], row["x"], row["y"]) for row in rows_of(figure)]
    assert rows == [("seed", "1", "LRU"), ("seed", "3", "LRU"), ("seed", "5", "GRU")]


def test_bars_points_errors_and_images_are_rows():
    figure, axes = figures.new_figure(1, 4)
    axes[0, 0].bar([0, 1], [2, 3], label="bars")
    axes[0, 1].scatter([1], [2], label="points")
    axes[0, 2].errorbar([1, 2], [5, 6], yerr=[1, 2], capsize=3, label="errors")
    axes[0, 3].imshow([[7, 8]])
    figure.colorbar(axes[0, 3].images[0], ax=axes[0, 3])
    figure.draw_without_rendering()
    rows = [tuple(row.values())[1:] for row in rows_of(figure)]
    assert rows == [
        ("bars", "0", "2", "", "", ""),
        ("bars", "1", "3", "", "", ""),
        ("points", "1", "2", "", "", ""),
        ("errors", "1", "5", "4", "6", ""),
        ("errors", "2", "6", "4", "8", ""),
        ("", "0", "0", "", "", "7"),
        ("", "1", "0", "", "", "8"),
    ]


def test_error_bars_are_those_along_y_and_end_with_their_points():
    figure, axes = figures.new_figure(1, 3)
    y, spread = [5, np.nan, 7], [1, np.nan, 2]
    axes[0, 0].errorbar([1, 2, 3], y, xerr=spread, yerr=spread, label="both")
    axes[0, 1].errorbar(["LRU", "GRU"], [1, 2], yerr=0.5, label="named")
    axes[0, 2].errorbar([1], [2], xerr=0.5, label="along x")
    figure.draw_without_rendering()
    assert [tuple(row.values())[1:] for row in rows_of(figure)] == [
        ("both", "1", "5", "4", "6"),
        ("both", "3", "7", "5", "9"),
        ("named", "LRU", "1", "0.5", "1.5"),
        ("named", "GRU", "2", "1.5", "2.5"),
        ("along x", "1", "2", "", ""),
    ]


def test_categories_are_named():
    figure, axes = figures.new_figure(1, 2)
    axes[0, 0].bar(["LRU", "GRU"], [2, 3])
    axes[0, 1].plot([3, 4], ["a", "b"])
    places = [(row["x"], row["y"]) for row in rows_of(figure)]
    assert places == [("LRU", "2"), ("GRU", "3"), ("3", "a"), ("4", "b")]


def test_what_cannot_be_told_as_rows_gives_no_wrong_ones():
    figure, axes = figures.new_figure(1, 3)
    axes[0, 0].axline((0, 0), slope=1)
    axes[0, 1].fill_betweenx([1, 2], [3, 4], [5, 6])
    axes[0, 2].remove()
    figure.add_subplot(1, 3, 3, projection="3d").plot([1, 2], [3, 4], [5, 6])
    figure.draw_without_rendering()
    assert not figure_data.csv_text(figure)


def test_a_figure_is_told_in_words():
    figure, axes = figures.new_figure()
    figures.length_axis(axes[0, 0], [64, 128])
    figures.seconds_axis(axes[0, 0], "time")
    axes[0, 0].plot([64, 128, 256], [1, 2, 3], label="LRU")
    assert figure_data.in_words(figure) == (
        "Line chart: time (logarithmic) against sequence length T (logarithmic); series LRU."
    )
    assert figure_data.in_words(figures.new_figure(1, 1)[0]).startswith("Chart of points")


def in_browser(tmp_path, text, width, expression):
    """What a browser finds of the page in a frame of that width, in JavaScript's words."""
    (tmp_path / "page.html").write_text(text)
    # A window has a least width; a frame is as narrow as it is told.
    (tmp_path / "frame.html").write_text(
        f'<iframe src="page.html" width="{width}" height="900" style="border:0" onload="'
        f"document.title = (page => {expression})(this.contentDocument)"
        '"></iframe>'
    )
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --disable-sync "
        "--disable-background-networking --disable-component-update --allow-file-access-from-files"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    frame = (tmp_path / "frame.html").as_uri()
    command = [BROWSER, *options.split(), profile, "--dump-dom", frame]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return html.unescape(re.findall("<title>(.*?)</title>", shown)[0])


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_narrow_page_does_not_scroll_sideways(tmp_path):
    wide = Table("wide " * 30, ("a column",) * 20, (("x" * 40,) * 20,))
    text = page.render("t" * 90, "lead", [page.Section("s", (wide, page.Text("c" * 300, "code")))])
    assert in_browser(tmp_path, text, 400, "page.documentElement.scrollWidth") == "400"


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_long_words_are_broken_and_lines_are_kept(tmp_path):
    """The first column stays in sight, so a wide one would hide all others for good."""
    table = Table("t", ("key", "value"), (("key_" * 100, "v" * 500),))
    parts = (table, page.Text("one"), page.Text("two\nlines"))
    text = page.render("t", "lead", [page.Section("s", parts)])
    sizes = (
        "[page.querySelector('table').offsetWidth < 1000, "
        "...[...page.querySelectorAll('section > p')].map(p => p.offsetHeight)]"
    )
    fits, one, two = in_browser(tmp_path, text, 1280, sizes).split(",")
    assert fits == "true"
    assert int(two) == 2 * int(one)
