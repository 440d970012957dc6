"""In which line of a TOML file each key stands, since tomllib does not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

TABLE = re.compile(r"^\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?$")
ASSIGNMENT = re.compile(r"""^\s*((?:[A-Za-z0-9_-]++|"[^"]*+"|'[^']*+'|\s*+\.\s*+)+?)\s*=""")
# What a value may consist of besides plain characters; text within quotes is one token, also where
# its end is missing, so that it is looked for only once.
TOKEN = re.compile(r"""\"{3}|'{3}|"(?:\\.|[^"\\])*+"?|'[^']*+'?|[\[\]{}]|\#""")
PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line (from 1) of every table and key of a valid TOML text, by path.

    Keys of a table in an array are found under the array's path: the last one wins.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for key, first, _ in _statements(text):
        if key.startswith("["):
            table = _path(key)
            lines.setdefault(table, first)
        else:
            lines[table + _path(key)] = first
    return lines


def key_at(text: str, line: int) -> tuple[str, int]:
    """The key or [table], as it is written, of the statement that `line` belongs to, and the line
    that the statement begins in."""
    for key, first, last in _statements(text):
        if first <= line <= last:
            return key, first
    return "", line


def _statements(text: str) -> Iterator[tuple[str, int, int]]:
    """Key or [table], first and last line of every statement."""
    rows = text.splitlines()
    number = 0
    while number < len(rows):
        first = number + 1
        if header := TABLE.match(rows[number]):
            yield f"[{header[1].strip()}]", first, first
        elif assignment := ASSIGNMENT.match(rows[number]):
            number += _further_lines(rows, number)
            yield assignment[1].strip(), first, number + 1
        number += 1


def _path(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in PART.findall(dotted))


def _further_lines(rows: list[str], number: int) -> int:
    """How many lines after `number` belong to the same value (arrays, multi-line text)."""
    depth, end = 0, ""
    for count in range(len(rows) - number):
        row, at = rows[number + count], 0
        while at < len(row):
            if end:  # of a text of several lines
                place = row.find(end, at)
                if place < 0:
                    break
                at, end = place + 3, ""
            elif (match := TOKEN.search(row, at)) is None or match[0] == "#":
                break
            else:
                token, at = match[0], match.end()
                end = token if token in ('"""', "'''") else ""
                depth += (token in "[{") - (token in "]}")
        if depth <= 0 and not end:
            return count
    return 0
