"""In which line of a TOML file each key stands, since tomllib does not tell."""

from __future__ import annotations

import itertools
import re

TABLE = re.compile(r"^\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?$")
ASSIGNMENT = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'|\s*\.\s*)+?)\s*=""")
# What a value may consist of besides plain characters; text within quotes is one token.
TOKEN = re.compile(r"""\"{3}|'{3}|"(?:\\.|[^"\\])*"|'[^']*'|[\[\]{}]|\#""")
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
    depth, end = 0, ""
    for count, row in enumerate(itertools.islice(rows, number, None)):
        for token in TOKEN.findall(row):
            if end:
                end = "" if token == end else end
            elif token in ('"""', "'''"):
                end = token
            elif token[0] == "#":
                break
            else:
                depth += (token in "[{") - (token in "]}")
        if depth <= 0 and not end:
            return count
    return 0
