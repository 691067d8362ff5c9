"""Tables that commands print: whole numbers at any width of a terminal, and plain lines in a pipe."""

import sys
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

NAME_WIDTH = 10  # characters that a folded name keeps before the numbers are split over two tables (our choice)
GAP = 2  # blanks between two columns
Cells = Sequence[Sequence[str]]


def table(columns: Sequence[str], rows: Cells, names: int = 1, file: TextIO | None = None) -> str:
    """A table as text, to be printed to `file` (by default what is standard output now).

    In a terminal no line is wider than it. The first `names` columns fold; the others, the numbers, are neither wrapped
    nor cut: those that do not fit stand in a second table below, beside the same names. Elsewhere a row is one line of
    any length, without colours or boxes, its columns two blanks apart.
    """
    file = file or sys.stdout
    head, *body = ([_clean(cell) for cell in row] for row in [columns, *rows])
    if not file.isatty():
        return _plain([head, *body], names)
    widths, width = _widths([head, *body]), Console(file=file).width
    room = width - sum(min(name, NAME_WIDTH) + GAP for name in widths[:names])
    parts = [[*range(names), *group] for group in _groups(widths, names, room)]
    return "\n\n".join(_drawn(file, width, [[row[n] for n in part] for row in [head, *body]], names) for part in parts)


def _clean(cell: str) -> str:
    """On one line, and nothing that a terminal obeys."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in cell).split())


def _widths(cells: Cells) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*cells, strict=True)]


def _plain(cells: Cells, names: int) -> str:
    widths = _widths(cells)
    return "\n".join(
        (" " * GAP).join(
            _padded(cell, width, n < names) for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def _padded(cell: str, width: int, left: bool) -> str:
    blanks = " " * (width - cell_len(cell))
    return cell + blanks if left else blanks + cell


def _groups(widths: Sequence[int], names: int, room: int) -> list[list[int]]:
    """The columns of numbers, as many beside each other as `room` characters hold."""
    groups: list[list[int]] = [[]]
    for column in range(names, len(widths)):
        beside = [*groups[-1], column]
        if groups[-1] and sum(widths[n] + GAP for n in beside) - GAP > room:
            groups.append([column])
        else:
            groups[-1] = beside
    return groups


def _drawn(file: TextIO, width: int, cells: Cells, names: int) -> str:
    head, *body = cells
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for number, column in enumerate(head):
        if number < names:
            drawn.add_column(Text(column), overflow="fold")
        else:
            drawn.add_column(Text(column), no_wrap=True, justify="right")
    for row in body:
        drawn.add_row(*map(Text, row))
    # A terminal too narrow for one number beside its names wraps the line itself, which loses nothing.
    least = [min(each, NAME_WIDTH) if number < names else each for number, each in enumerate(_widths(cells))]
    console = Console(file=file, width=max(width, sum(least) + GAP * (len(least) - 1)))
    with console.capture() as captured:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
