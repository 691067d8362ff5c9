"""Tables in a terminal and in a pipe."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from eval.terminal import table

LONG = "a_task_whose_name_has_forty_five_characters_x"
OTHER = "another-task.whose-name-is-as-long_1234567890"
COLUMNS = ("task", "decoding", "n (images)", "A", "B", "B - A (95%)", "gained, lost", "p (Holm)", "detectable")
ROWS = [
    (
        LONG,
        "greedy",
        "2017 (2017)",
        "0.412",
        "0.537",
        "+0.125 (+0.100 to +0.150)",
        "320, 68",
        "1.2e-10 (4.8e-10)",
        "0.028",
    ),
    (OTHER, "sampled", "200000 (1)", "0.000", "1.000", "-0.001 (-0.020 to +0.018)", "-", "0.81 (1)", "0.113"),
]
NUMBERS = [cell for row in ROWS for cell in row[1:] if cell != "-"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _in_terminal(monkeypatch: pytest.MonkeyPatch, width: int, columns: object = COLUMNS, rows: object = ROWS) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    shown = table(columns, rows, names=1, file=Terminal())  # type: ignore[arg-type]
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


def test_in_a_pipe_a_row_is_a_line_without_boxes_colours_or_wrapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = table(COLUMNS, ROWS, file=io.StringIO()).split("\n")
    assert [re.split(" {2,}", line.strip()) for line in lines] == [[*COLUMNS], *map(list, ROWS)]
    assert "".join(lines).isascii()
    assert "\x1b" not in "".join(lines)
    assert len(lines[1]) > 120


def test_columns_stand_below_each_other_whatever_the_script_of_a_name() -> None:
    shown = table(["name", "n"], [["任务", "1"], ["task", "1000"]], file=io.StringIO())
    assert {cell_len(line) for line in shown.split("\n")} == {10}


@pytest.mark.parametrize("width", [60, 80, 100, 130, 200])
def test_in_a_terminal_no_number_is_cut_or_wrapped_and_no_line_too_long(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    shown = _in_terminal(monkeypatch, width)
    assert max(map(len, shown.split("\n"))) <= width
    assert "…" not in shown
    assert [number for number in NUMBERS if number not in shown] == []
    assert [column for column in COLUMNS if column not in shown] == []


def test_long_names_fold_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _in_terminal(
        monkeypatch, 60, ("task", "accuracy (95%)"), [(LONG, "0.856 (0.833 to 0.876)"), (OTHER, "1.000")]
    )
    assert "".join(line[:36].strip() for line in shown.split("\n")[2:]) == LONG + OTHER


def test_what_does_not_fit_beside_goes_on_below_under_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = _in_terminal(monkeypatch, 80).split("\n\n")
    heads = [part.split("\n")[0].split() for part in parts]
    assert [head[0] for head in heads] == ["task", "task"]
    assert [column for part in parts for column in COLUMNS[1:] if column in part.split("\n")[0]] == [*COLUMNS[1:]]
    assert len(_in_terminal(monkeypatch, 200).split("\n\n")) == 1


def test_a_terminal_of_no_use_still_gets_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _in_terminal(monkeypatch, 10)
    assert [number for number in NUMBERS if number not in shown] == []


def test_what_a_name_holds_is_neither_markup_nor_a_line_nor_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "runs/[bold]a[/bold] :smile:\nb\x1b[31mc\udcff"
    for shown in (
        _in_terminal(monkeypatch, 80, ["name", "n"], [(name, "1")]),
        table(["name", "n"], [(name, "1")], file=io.StringIO()),
    ):
        assert "runs/[bold]a[/bold] :smile: b [31mc" in shown
        shown.encode()
        assert "\x1b" not in shown


def test_a_table_without_rows_is_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table(["name", "n"], [], file=io.StringIO()) == "name  n"
    assert "name" in _in_terminal(monkeypatch, 80, ["name", "n"], [])


SCRIPT = f"""
from eval.terminal import table
print(table({COLUMNS!r}, {ROWS!r}, names=1))
"""


def _on_a_real_terminal(width: int) -> str:
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    done = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=side,
        stderr=side,
        env={**environment, "TERM": "xterm"},
        cwd=Path(__file__).parents[2],
    )
    os.close(side)
    shown = b""
    while chunk := _read(main):
        shown += chunk
    os.close(main)
    assert done.wait() == 0
    return shown.decode().replace("\r\n", "\n")


def _read(main: int) -> bytes:
    try:
        return os.read(main, 65536)
    except OSError:  # Linux: the other side is closed
        return b""


@pytest.mark.slow
def test_on_a_real_terminal_of_80_columns_all_numbers_are_read() -> None:
    shown = _on_a_real_terminal(80)
    assert "\x1b[1m" in shown, "its head is bold"
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, shown.split("\n"))) <= 80
    assert [number for number in NUMBERS if number not in shown] == []
    piped = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert piped.stdout.count("\n") == 1 + len(ROWS)
