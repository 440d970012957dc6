"""In which line of a TOML file each key stands, since tomllib does not tell."""

from __future__ import annotations

import re
import tomllib

TABLE = re.compile(r"^\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?$")
ASSIGNMENT = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'|\s*\.\s*)+?)\s*=""")
PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line (from 1) of every table and key of a valid TOML text, by path.

    Keys of a table in an array are found under the array's path: the last one wins.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    rows = text.splitlines()
    number = 0
    while number < len(rows):
        row = rows[number]
        start = number + 1
        if header := TABLE.match(row):
            table = _path(header[1])
            lines.setdefault(table, start)
        elif assignment := ASSIGNMENT.match(row):
            lines[table + _path(assignment[1])] = start
            number += _further_lines(rows, number)
        number += 1
    return lines


def _path(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in PART.findall(dotted))


def _further_lines(rows: list[str], number: int) -> int:
    """How many lines after `number` belong to the same value (arrays, multi-line text)."""
    for count in range(len(rows) - number):
        try:
            tomllib.loads("\n".join(rows[number : number + count + 1]))
        except tomllib.TOMLDecodeError:
            continue
        return count
    return 0
