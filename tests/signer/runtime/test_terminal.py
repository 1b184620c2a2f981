"""What reaches people and programs: JSON or text, nothing that drives a terminal, silence without one."""

import json

import pytest
from rich.console import Console

from signer.runtime import terminal
from signer.runtime.progress import ignore_progress


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_json({"name": "x[red]y", "é": 1})
    assert json.loads(capsys.readouterr().out) == {"name": "x[red]y", "é": 1}


def test_text_is_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({}, "a [red]b[/red] [link=x]")
    assert capsys.readouterr().out == "a [red]b[/red] [link=x]\n"


def test_cells_are_never_markup_and_never_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table = terminal.table(["NAME", "SIZE"], [["[bold]evil\x1b[2J\x9b1m", 3], ["plain", 4]])
    terminal.show([], table)
    shown = capsys.readouterr().out
    assert "[bold]evil\\x1b[2J\\x9b1m" in shown
    assert "\x1b" not in shown
    assert shown.splitlines()[2].split() == ["plain", "4"]


def test_nothing_is_cut_off_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = ["F" * 64, "G" * 64, "a name of some length " * 5]
    terminal.show([], terminal.table(["ONE", "TWO", "THREE"], [row]))
    (_, shown) = capsys.readouterr().out.splitlines()
    assert all(cell.strip() in shown for cell in row)


def test_the_first_column_is_whole_on_a_narrow_terminal() -> None:
    screen = Console(force_terminal=True, width=80, highlight=False, soft_wrap=True, color_system=None)
    with screen.capture() as captured:
        screen.print(
            terminal.table(["ONE", "TWO", "THREE"], [["F" * 40, "G" * 40, "some words " * 9]]), soft_wrap=False
        )
    shown = captured.get()
    assert "F" * 40 in shown
    assert shown.count("G") == 40


def test_nothing_is_said_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("working")
    with terminal.progress("upload", 100) as advance:
        advance(50)
        assert advance is ignore_progress
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Console(stderr=True, force_terminal=True, width=100, highlight=False, soft_wrap=True)
    monkeypatch.setattr(terminal, "err", screen)
    terminal.say("name \x1b[2J")
    with terminal.progress("upload", 2 << 20) as advance:
        advance(1 << 20)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "name \\x1b[2J" in shown.err
    assert "upload" in shown.err


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes_are_read_by_people(count: int, text: str) -> None:
    assert terminal.format_size(count) == text
