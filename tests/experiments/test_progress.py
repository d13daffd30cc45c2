"""Plain lines where there is no terminal, a bar where there is one."""

import io

from rich.console import Console

from experiments.harness import progress


def test_plain_lines_count_what_was_done_before():
    output = io.StringIO()
    with progress.show(Console(file=output, width=80), total=12, finished=3) as shown:
        shown.begin("length=[64]")
        progress.say("not shown in plain lines")
        shown.done()
    assert output.getvalue().startswith("[ 4/12] length=[64]  ")
    assert output.getvalue().count("\n") == 1


def test_a_terminal_sees_what_goes_on_within_a_point():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    with progress.show(console, total=2, finished=0) as shown:
        shown.begin("length=64")
        progress.say("compiling LRU")
        shown.bar.refresh()
        shown.done()
    assert "length=64: compiling LRU" in output.getvalue()


def test_outside_a_run_nobody_listens():
    progress.say("nobody")
