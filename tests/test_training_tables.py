"""What people have in their files: how it is read, what each column becomes, and what is said."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanotorch.training import exit_code, fit, read_request
from nanotorch.training.commands import COMMANDS
from nanotorch.training.config.sections import Data
from nanotorch.training.data.columns import GAP, OTHER
from nanotorch.training.data.polars_text import numbers_by_polars
from nanotorch.training.data.prepare import Prepared, prepare
from nanotorch.training.data.tables import Table, read_table
from nanotorch.training.data.text_files import _numbers, read_text_table, text_chunks
from nanotorch.training.data.values import Numbers, date_format, days, yes_or_no
from nanotorch.training.errors import InputError
from nanotorch.training.run_folder import read_log

nan = math.nan


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(text: str | bytes, name: str = "d.csv", **keys: Any) -> Table:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(name, Data(source=name, **keys))


def prepared(text: str, model: str = "logistic", **keys: Any) -> Prepared:
    Path("d.csv").write_text(text)
    keys = {"test": 0.0, "validation": 0.0, "target": "y", **keys}
    return prepare(Data(source="d.csv", **keys), model, 0)


# --- reading -----------------------------------------------------------------------------------


@dataclass
class Text:
    """A text file, and the table that it holds."""

    text: str | bytes
    values: list[list[Any]]  # text where a column is text
    names: list[str] = field(default_factory=lambda: ["x", "z", "y"])
    name: str = "d.csv"
    keys: dict[str, Any] = field(default_factory=dict)


ROWS = [[1, 5, "a"], [2, 6, "b"]]
BARE = ["0", "1", "2"]
TEXTS = {
    "as usual": Text("x,z,y\n1,5,a\n2,6,b\n", ROWS),
    "no line end": Text("x,z,y\n1,5,a\n2,6,b", ROWS),
    "carriage returns": Text("x,z,y\r1,5,a\r2,6,b\r", ROWS),
    "Windows": Text("x,z,y\r\n1,5,a\r\n2,6,b\r\n", ROWS),
    "blank lines": Text("\n\nx,z,y\n1,5,a\n\n2,6,b\n\n  \n", ROWS),
    "rows of delimiters alone": Text("x,z,y\n1,5,a\n,,\n2,6,b\n,,\n", ROWS),
    "comments": Text("# mm\n# cm\nx,z,y\n1,5,a\n# and\n2,6,b\n", ROWS),
    "a comment at the end": Text("x,z,y\n1,5,a\n2,6,b\n# the end\n", ROWS),
    "comments of another kind": Text("x,z,y\n%1\n1,5,a\n2,6,b\n", ROWS, keys={"comment": "%"}),
    "names in a comment": Text("# x,z,y\n1,5,a\n2,6,b\n", ROWS),
    "spaces around cells": Text("x , z,y \n 1 ,5 , a\n2, 6,b \n", ROWS),
    "runs of spaces": Text("x  z y\n1   5  a\n 2 6    b\n", ROWS, name="d.txt"),
    "one column, its name of two words": Text("my y\n1\n2\n", [[1], [2]], ["my y"]),
    "numbers in columns": Text(
        "  1.0   5  0\n -2.5   6  1\n", [[1, 5, 0], [-2.5, 6, 1]], BARE, "d.dat"
    ),
    "tabs": Text("x\tz\ty\n1\t5\ta\n2\t6\tb\n", ROWS, name="d.tsv"),
    "tabs in a CSV": Text("x\tz\ty\n1\t5\ta\n2\t6\tb\n", ROWS),
    "bars": Text("x|z|y\n1|5|a\n2|6|b\n", ROWS, name="d.data"),
    "another delimiter": Text("x~z~y\n1~5~a\n2~6~b\n", ROWS, keys={"delimiter": "~"}),
    "delimiters at the ends of rows": Text("x,z,y\n1,5,a,\n2,6,b,\n", ROWS),
    "delimiters at all ends": Text("x,z,y,\n1,5,a,\n2,6,b,\n", ROWS),
    "names of rows": Text(
        "x,z,y\nr1,1,5,a\nr2,2,6,b\n",
        [["r1", *ROWS[0]], ["r2", *ROWS[1]]],
        ["Unnamed: row", "x", "z", "y"],
    ),
    "no name of the first": Text(
        ",x,y\n0,5,a\n1,6,b\n", [[0, 5, "a"], [1, 6, "b"]], ["Unnamed: 0", "x", "y"]
    ),
    "numbers first": Text("1,5,a\n2,6,b\n3,7,a\n", [*ROWS, [3, 7, "a"]], BARE),
    "words that repeat": Text(
        "p,x,e\ne,x,p\np,y,e\n", [["p", "x", "e"], ["e", "x", "p"], ["p", "y", "e"]], BARE
    ),
    "words that do not": Text(
        "sex,job,y\nm,a,no\nf,b,yes\n", [["m", "a", "no"], ["f", "b", "yes"]], ["sex", "job", "y"]
    ),
    "years and numbers": Text(
        "5,2010,2011\nx,1,5\ny,2,6\n", [["5", 2010, 2011], ["x", 1, 5], ["y", 2, 6]], BARE
    ),
    "years as names": Text(
        "2010,2011,y\n1,5,a\n2,6,b\n", ROWS, ["2010", "2011", "y"], keys={"target": "y"}
    ),
    "names in other quotes": Text("'x' 'z' 'y'\n1 5 a\n2 6 b\n", ROWS),
    "a header by word": Text(
        "1,2,3\n1,5,7\n2,6,8\n", [[1, 5, 7], [2, 6, 8]], ["1", "2", "3"], keys={"header": True}
    ),
    "no header by word": Text(
        "a,b,c\nd,e,f\n", [["a", "b", "c"], ["d", "e", "f"]], BARE, keys={"header": False}
    ),
    "UTF-8 with a mark": Text("\ufeffx,z,y\n1,5,a\n2,6,b\n", ROWS),
    "UTF-16": Text("x,z,y\n1,5,a\n2,6,b\n".encode("utf-16"), ROWS),
    "UTF-16 without a mark": Text("x,z,y\n1,5,a\n2,6,b\n".encode("utf-16-le"), ROWS),
    "numbers in UTF-16": Text("x,z,y\n1,5,0\n2,6,1\n".encode("utf-16"), [[1, 5, 0], [2, 6, 1]]),
    "Latin-1": Text(
        "x,größe,y\n1,5,ä\n2,6,ü\n".encode("latin-1"),
        [[1, 5, "ä"], [2, 6, "ü"]],
        ["x", "größe", "y"],
    ),
    "quoted cells": Text(
        'x,z,y\n"1","5","a, c"\n"2","6","say ""b"""\n', [[1, 5, "a, c"], [2, 6, 'say "b"']]
    ),
    "a quoted line end": Text('x,z,y\n1,5,"a\nc"\n2,6,b\n', [[1, 5, "a\nc"], [2, 6, "b"]]),
    "quotes in text": Text(
        'say\tx\ty\n5" pipe\t1\ta\nrod\t2\tb\n',
        [['5" pipe', 1, "a"], ["rod", 2, "b"]],
        ["say", "x", "y"],
        "d.tsv",
    ),
    "a quote that stays open": Text(
        'say\tx\ty\n"5 pipe\t1\ta\nrod\t2\tb\n',
        [['"5 pipe', 1, "a"], ["rod", 2, "b"]],
        ["say", "x", "y"],
        "d.tsv",
    ),
    "decimal commas": Text("x;z;y\n1,5;5;a\n2,5;6;b\n", [[1.5, 5, "a"], [2.5, 6, "b"]]),
    "decimal commas, no names": Text(
        "1,5;2,5;0\n2,5;3,5;1\n", [[1.5, 2.5, 0], [2.5, 3.5, 1]], BARE
    ),
    "decimal commas in quotes": Text(
        'x,z,y\n"1,5",5,a\n"2,25",6,b\n', [[1.5, 5, "a"], [2.25, 6, "b"]]
    ),
    "thousands": Text(
        'x,z,y\n"1,234",5,a\n"12,345,678.5",6,b\n', [[1234, 5, "a"], [12345678.5, 6, "b"]]
    ),
    "thousands with points": Text(
        "x;z;y\n1.234,5;5;a\n2.000;6;b\n", [[1234.5, 5, "a"], [2000, 6, "b"]]
    ),
    "thousands with points beside decimal commas": Text(
        "x;z;y\n1.234;5,5;a\n2.345;6,5;b\n", [[1234, 5.5, "a"], [2345, 6.5, "b"]]
    ),
    "thousands by word": Text(
        "x;z;y\n1'234;5;a\n2'000;6;b\n", [[1234, 5, "a"], [2000, 6, "b"]], keys={"thousands": "'"}
    ),
    "signs of money and percent": Text(
        "x,z,y\n$3,12%,a\n-$1.50,7.5%,b\n", [[3, 12, "a"], [-1.5, 7.5, "b"]]
    ),
    "numbers of Fortran": Text(
        "x,z,y\n1.0D+03,0.0,a\n-2.5d-01,.5D2,b\n", [[1000, 0, "a"], [-0.25, 50, "b"]]
    ),
    "missing in many words": Text(
        "x,z,y\nNA,n/a,a\n2,?,b\n-,4,a\n.,null,b\n,NaN,a\n1,N/A,b\n",
        [
            [nan, nan, "a"],
            [2, nan, "b"],
            [nan, 4, "a"],
            [nan, nan, "b"],
            [nan, nan, "a"],
            [1, nan, "b"],
        ],
    ),
    "missing by word": Text(
        "x,z,y\n-9,5,a\n2,NA,b\n",
        [[nan, "5", "a"], [2, "NA", "b"]],
        keys={"missing_values": ["-9"]},
    ),
    "large and small": Text("x,z,y\n5e38,-1E-3,a\n+.5,2.,b\n", [[5e38, -1e-3, "a"], [0.5, 2, "b"]]),
    "a row of years in front of other numbers": Text(
        "2010,2011,2012\n1.5,2.5,0\n3,4.5,1\n",
        [[1.5, 2.5, 0], [3, 4.5, 1]],
        ["2010", "2011", "2012"],
    ),
    "a row of years in front of years": Text(
        "2010,2011,2012\n2011,2012,2013\n", [[2010, 2011, 2012], [2011, 2012, 2013]], BARE
    ),
    "a year as the target": Text(
        "2010,7,2012\n1,5,0\n2,6,1\n",
        [[1, 5, 0], [2, 6, 1]],
        ["2010", "7", "2012"],
        keys={"target": 2012},
    ),
    "numbers of columns as names": Text(
        "0,1,2\n1.5,5,0\n2,6,1\n", [[1.5, 5, 0], [2, 6, 1]], ["0", "1", "2"]
    ),
    "numbers in a row before a class": Text(
        "0,1,2,a\n1,2,4,b\n2.5,3,5,a\n",
        [[0, 1, 2, "a"], [1, 2, 4, "b"], [2.5, 3, 5, "a"]],
        ["0", "1", "2", "3"],
    ),
    "names that come again": Text("x,z,y\n1,5,a\nx,z,y\n2,6,b\n", ROWS),
    "the delimiter as Excel states it": Text("sep=;\nx;z;y\n1;5;a\n2;6;b\n", ROWS),
    "comments that begin with percent": Text("% mm\nx,z,y\n1,5,a\n2,6,b\n", ROWS),
    "a comment with delimiters": Text("x,z,y\n1,5,a\n# so, so, so\n2,6,b\n", ROWS),
    "colours are no comments": Text(
        "x,z,y\n#ff0000,5,a\n#00ff00,6,b\n", [["#ff0000", 5, "a"], ["#00ff00", 6, "b"]]
    ),
    "spaces in quotes between runs of spaces": Text(
        '1.5   5 \t"a car"\n2   6  "b"\n', [[1.5, 5, "a car"], [2, 6, "b"]], BARE, "d.data"
    ),
    "single quotes around all cells": Text("'x','z','y'\n'1','5','a'\n'2','6','b'\n", ROWS),
    "a line end in a name": Text('"x\n(mm)",z,y\n1,5,a\n2,6,b\n', ROWS, ["x (mm)", "z", "y"]),
    "Windows-1252": Text(
        "x,z,y\n€1,5,“a”\n€2,6,b\n".encode("cp1252"), [[1, 5, "“a”"], [2, 6, "b"]]
    ),
    "Latin-1 that shows late": Text(
        b"x,z,y\n" + b"1,5,a\n" * 12_000 + b"2,6,\xfc\n", [[1, 5, "a"]] * 12_000 + [[2, 6, "ü"]]
    ),
    "a long cell": Text(
        f"x,z,y\n1,5,{'a' * 200_000}\n2,6,b\n", [[1, 5, "a" * 200_000], [2, 6, "b"]]
    ),
    "an ending of its own": Text(
        "1,5,R\n2,6,M\n", [[1, 5, "R"], [2, 6, "M"]], BARE, "sonar.all-data"
    ),
    "no ending": Text("x,z,y\n1,5,a\n2,6,b\n", ROWS, name="table"),
    "errors of a spreadsheet": Text(
        "x,z,y\n1,#DIV/0!,a\nnone,6,b\n", [[1, nan, "a"], [nan, 6, "b"]]
    ),
    "none among text": Text("x,z,y\nbeer,1,a\nnone,2,b\n", [["beer", 1, "a"], ["none", 2, "b"]]),
    "a number that is missing": Text(
        "x,z,y\n-9,5,0\n-9.0,6,1\n3,7,1\n",
        [[nan, 5, 0], [nan, 6, 1], [3, 7, 1]],
        keys={"missing_values": [-9]},
    ),
    "underscores are no numbers": Text(
        "x,z,y\n1_0,5,a\n2_0,6,b\n", [["1_0", 5, "a"], ["2_0", 6, "b"]]
    ),
}


def told(found: Table) -> list[list[Any]]:
    """The rows, with the text of text columns."""

    def cell(name: str, value: float) -> Any:
        texts = found.categories.get(name)
        return value if texts is None or math.isnan(value) else texts[int(value)]

    return [[cell(n, v) for n, v in zip(found.names, row)] for row in found.values.tolist()]


@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_file_is_read_as_a_person_reads_it(kind: str) -> None:
    case = TEXTS[kind]
    found = table(case.text, case.name, **case.keys)
    assert found.names == case.names
    assert str(told(found)) == str(
        [[float(c) if isinstance(c, int) else c for c in row] for row in case.values]
    )


def zipped(content: bytes) -> bytes:
    with zipfile.ZipFile("made.zip", "w") as archive:
        archive.writestr("inside.csv", content)
    return Path("made.zip").read_bytes()


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zip", zipped)],
)
@pytest.mark.parametrize("text", ["x,z,y\n1,5,0\n2,6,1\n", "x,z,y\n1,5,a\n2,6,b\n"])
def test_packed_files_are_read(ending: str, pack: Callable[[bytes], bytes], text: str) -> None:
    whole = table(text)
    packed = table(pack(text.encode()), f"d.csv{ending}")
    assert (packed.names, told(packed)) == (whole.names, told(whole))


def test_what_was_guessed_is_said_and_kept_with_the_run() -> None:
    rows = "".join(f"{i % 7},5;{i % 2}\n" for i in range(60))
    Path("d.csv").write_text(rows)
    Path("a.toml").write_text('[data]\nsource = "d.csv"\n[training]\nepochs = 2\n')
    quick = ["--output.curves", "false", "--output.report", "false", "--device", "cpu"]
    run = fit(read_request(["a.toml", *quick]).configs[0], quiet=True)
    assert 'guessed in [data]: header = false, delimiter = ";", decimal = ","' in run.data.notes
    text = (run.folder / "config.toml").read_text()
    for line in ("header = false", 'delimiter = ";"', 'decimal = ","', 'encoding = "utf-8"'):
        assert line in text.splitlines()
    more = read_request(["a.toml", *quick, "--training.epochs", "3"]).configs[0]
    assert len(read_log(fit(more, resume="newest", quiet=True).folder / "metrics.jsonl")) == 3


def test_the_place_of_a_cell_counts_every_line() -> None:
    text = '# a comment\n\nx,z,y\n1,"5\n5",a\n\n,6,b\n3,7,a\n'
    with pytest.raises(InputError, match=r"d\.csv:7, column 'x': the value is missing"):
        prepared(text)


def test_polars_and_the_reader_of_its_own_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("polars")
    text = "x,c,d,y\n" + rows(
        50, lambda i: ("", " 1.5", "-2e3")[i % 3], lambda i: "u v"[i % 3], str, ab
    )
    tables = []
    for least in (0, 2**60):
        monkeypatch.setattr("nanotorch.training.data.text_files.WORTH_IT", least)
        tables.append(table(text))
    assert tables[0].names == tables[1].names
    assert str(told(tables[0])) == str(told(tables[1]))
    assert tables[0].place(7, 1) == tables[1].place(7, 1)


def read_by(who: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, bool]:
    """What is read out of a file, or the error; and whether polars read it, and no other tried."""
    Path("n.csv").write_bytes(content)
    least = 0 if who == "polars" else 2**60
    others = []  # readers that come next

    def numbers(*arguments: Any) -> Any:
        others.append("numpy.loadtxt")
        return _numbers(*arguments)

    for name, value in (("WORTH_IT", least), ("WORTH_IMPORT", least), ("_numbers", numbers)):
        monkeypatch.setattr(f"nanotorch.training.data.text_files.{name}", value)
    try:
        text = read_text_table(Path("n.csv"), Data(source="n.csv"))
    except InputError as error:
        return str(error), False
    lines = text.lines + np.arange(len(text.values)) if isinstance(text.lines, int) else text.lines
    facts = (text.names, text.values.shape, text.values.tobytes(), text.categories, text.notes)
    return (*facts, text.guesses, np.asarray(lines).tolist()), not others


HARD = (  # to round: halves between two numbers, the smallest ones, more digits than there can be
    "9007199254740993 9007199254740992.5 1e23 8.5e22 5e-324 2.5e-324 2.4e-324 1e-400 -0 "
    "2.2250738585072011e-308 1.7976931348623157e308 1.00000000000000011102230246251565404 "
    "1.00000000000000011102230246251565405 123456789012345678901234567890 0e99999 .5 7. +3 007"
)
POLARS_TEXT = "nanotorch.training.data.polars_text"
IDS = b"".join(b"%d,v%d\n" % (at, 7 * at % 3001) for at in range(3000))
LARGE_TABLES = {
    "a header": (b"a,b\n1,2\n3,4\n", True),
    "no header": (b"1,2\n3,4\n", True),
    "no line end at last": (b"a,b\n1,2\n3,4", True),
    "other line ends": (b"a;b\r\n1;2\r\n3;4\r\n", True),
    "a byte order mark": (b"\xef\xbb\xbfa,b\n1,2\n", True),
    "a mark before a number": (b"\xef\xbb\xbf1,2\n3,4\n", False),
    "lines above the header": (b"\n\na,b\n1,2\n3,4\n", True),
    "empty cells": (b"a,b\n1,\n,4\n5,6\n", True),
    "an empty column": (b"a,b\n1,\n3,\n", True),
    "delimiters alone": (b"a,b\n1,2\n,\n3,4\n", False),
    "delimiters at the ends": (b"a,b,\n1,2,\n3,4,\n", False),
    "one at the last end": (b"a,b\n1,2\n3,4,", False),
    "one at the last end and a short row": (b"1,2,3\n4,5,6\n7,8\n1,2,3,", False),
    "blank lines": (b"a,b\n1,2\n\n3,4\n\n", False),
    "old line ends": (b"a,b\r1,2\r3,4\r", False),
    "one old line end": (b"a,b\n1\r,2\n3,4\n", False),
    "an old line end above": (b"x\ra,b\n1,2\n3,4\n", False),
    "a short row": (b"a,b\n1,2\n3\n5,6\n", False),
    "a long row": (b"a,b\n1,2\n3,4,5\n5,6\n", False),
    "words for missing": (b"a,b\n1,NA\n3,4\n", True),
    "nan and inf": (b"a,b\n1,nan\n-inf,4\n", True),
    "a mark below the header": (b"a,b\n\xef\xbb\xbf,2\n3,4\n", False),
    "nan beside gaps": (b"a,b\n1,nan\n,4\n", True),
    "more than there is": (b"a,b\n1,1e400\n3,4\n", True),
    "spaces": (b"a,b\n1, 2\n3 ,4\n", True),
    "quotes": (b'a,b\n1,"2"\n3,4\n', True),
    "quotes around all": (b'"a","b"\n"1","u"\n"2.5","v"\n', True),
    "a delimiter in quotes": (b'a,b\n1,"u,v"\n3,"w"\n', True),
    "quotes in quotes": (b'a,b\n1,"u ""v"""\n3,""""\n4,""\n', True),
    "a gap beside an empty cell in quotes": (b'a,b\n1,""\n2,\n3,u\n""," v "\n', True),
    "delimiters in quotes beside gaps": (b'a,b\n1,\n2,"u,v"\n3,"w,"\n', True),
    "delimiters in quotes and a short row": (b'a,b\n1,"u,v"\n2\n3,\n', False),
    "a line end in quotes": (b'a,b\n1,"u\nv"\n3,w\n', False),
    "a quote within a cell": (b'a,b\n1,u"v"\n3,"w"\n', False),
    "a space before a quote": (b'a,b\n1, "u"\n3,"w"\n', False),
    "a space behind a quote": (b'a,b\n1,"u" \n3,"w"\n', False),
    "text behind a quote": (b'a,b\n1,"u"v\n3,"w"\n', False),
    "a quote that stays open": (b'a,b\n1,"u\n3,"w"\n', False),
    "quotes and Windows' line ends": (b'a,b\r\n1,"u"\r\n3,"w"\r\n', True),
    "thousands": (b"a;b\n1;2,345.5\n3;4\n", True),
    "decimal commas": (b"a;b\n1,5;2,5\n3,5;4,5\n", True),
    "no plain numbers": (b"a,b\n1,0x10\n2,1_0\n", True),
    "digits of another script": ("a,b\n1,١\n2,3\n".encode(), True),
    "a zero byte": (b"a,b\n1,2\n3,\x004\n", False),
    "no UTF-8": (b"a,b\n1,2\n3,\xff4\n", False),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), False),
    "text": (b"a,b\n1,u\n2, v \n3,\n", True),
    "text and other line ends": (b"a,b\r\n1,u\r\n2,v\r\n", True),
    "text alone": (b"a,b\nu,x\nv,y\nu,x\n", True),
    "texts that repeat": (b"a,b\n" + 3 * b"1,u\n2, v \n3,\n4,NA\n", True),
    "texts that repeat at first": (b"a,b\n" + 20_000 * b"1,u\n" + b"2,\n3,w\n4,v\n5,7\n", True),
    "texts that hardly repeat": (b"a,b\n" + IDS + b'7,\n8,""\n7, v3 \n9,v5\n', True),
    "texts that hardly repeat, without gaps": (b"a,b\n" + IDS, True),
    "quotes far below": (b"a,b\n" + 20_000 * b"1,u\n" + b'2,"v,w"\n', True),
    "a quote within a cell far below": (b"a,b\n" + 20_000 * b"1,u\n" + b'2,v"w\n', False),
    "an old line end far below": (b"a,b\n" + 20_000 * b"1,u\n" + b"2\r,v\n", False),
    "quotes at first alone": (b'a,b\n2,"v,w"\n' + 20_000 * b"1,u\n", True),
    "numbers that repeat below a word": (b"a,b\n" + 4 * b"1,NA\n2, 7.5\n3,\n4,-0\n", True),
    "words for missing that repeat": (b"a,b\n" + 4 * b"1,NA\n2,?\n", True),
    "names that come again below others": (b"a,b\n" + 4 * b"u,x\n" + b"a,b\nv,y\n", False),
    "names that come again": (b"a,b\nu,x\nv,y\na,b\n", False),
    "text that is no UTF-8": (b"a,b\n1,\xe9\n2,v\n", False),
    "text far below numbers": (b"a,b\n" + 20_000 * b"1,2\n" + b"3,u\n", True),
    "words for missing far below": (b"a,b\n" + 20_000 * b"1,2\n" + b" 3,NA\n4 , \n", True),
    "a gap in a first column of words": (b"a,b,c\nu,1,x\n,,\nNA,2,y\nv,,z\n", False),
    "words for gaps alone in a row": (b"a,b,c\nu,1,x\nNA,?,-\nNA,2,y\nv,,z\n", False),
    "words for gaps": (b"a,b,c\nu,1,x\nNA,?,x\nNA,2,y\nv,,z\n", True),
    "no UTF-8 far below": (b"a,b\n" + 20_000 * b"1,u\n" + b"3,\xe9\n", False),
    "an infinity beside text": (b"a,b\n1,u\n-inf,v\n-nan,w\n", True),
    "a huge cell": (b"a,b\n1,0." + 10_000 * b"3" + b"\n3,4\n", True),
    "numbers that are hard to round": (f"a {HARD}".replace(" ", "\n").encode(), True),
}


@pytest.mark.parametrize("pieces", ["2 pieces", "many pieces"])
@pytest.mark.parametrize("kind", LARGE_TABLES)
def test_polars_reads_a_file_to_the_same_bits_or_not_at_all(
    kind: str, pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("polars")
    content, is_plain = LARGE_TABLES[kind]
    if pieces == "many pieces":
        bytes_of_two = max(12, len(content) // 20)
        monkeypatch.setattr(f"{POLARS_TEXT}.BYTES_SIDE_BY_SIDE", bytes_of_two)
    one, by_polars = read_by("polars", content, monkeypatch)
    other, _ = read_by("ours", content, monkeypatch)
    assert one == other
    assert by_polars == is_plain


def test_texts_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    polars = pytest.importorskip("polars")
    content = b"a,b\n" + IDS
    told_apart, _ = read_by("polars", content, monkeypatch)
    by_length = lambda cells: cells.str.len_bytes().cast(polars.UInt64)
    monkeypatch.setattr(polars.Series, "hash", by_length)
    assert read_by("polars", content, monkeypatch) == (told_apart, True)


@pytest.mark.parametrize("least", [0, 2**60])
def test_a_byte_order_mark_is_text_where_the_encoding_says_so(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanotorch.training.data.text_files.WORTH_IT", least)
    marked = table("\ufeffu,2\nv,4\n", encoding="utf-8", header=False)
    assert marked.categories == {"0": ["v", "\ufeffu"]}


def test_polars_reads_a_file_in_pieces_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("polars")
    random = np.random.default_rng(0)
    numbers = random.integers(0, 2**63, 90_000, dtype=np.int64).view(np.float64).reshape(-1, 3)
    content = "\r\n".join(",".join(map(repr, row)) for row in numbers.tolist()).encode()
    (_, shape, values, *_), by_polars = read_by("polars", content, monkeypatch)
    assert by_polars
    assert shape == numbers.shape
    assert np.array_equal(np.frombuffer(values).reshape(shape), numbers, equal_nan=True)


NUMBERS = b"".join(b"%d,%d.25,-%de-3\n" % (at, at % 7, at) for at in range(400))
PIECES = {  # and how many rows polars reads of them
    "numbers": (b"a,b,c\n" + NUMBERS, 400),
    "no line end at last": (b"a,b,c\n" + NUMBERS[:-1], 400),
    "line ends of Windows": (b"a,b,c\r\n" + NUMBERS.replace(b"\n", b"\r\n"), 400),
    "no header": (NUMBERS, 400),
    "a mark above numbers": (b"\xef\xbb\xbf" + NUMBERS, 0),
    "a gap further down": (NUMBERS + b"1,,3\n", None),
    "text further down": (NUMBERS + b"1,u,3\n", None),
    "quotes further down": (NUMBERS + b'1,"2",3\n', None),
    "a blank line further down": (NUMBERS + b"\n" + NUMBERS, None),
    "a short row further down": (NUMBERS + b"1,2\n" + NUMBERS, None),
    "a delimiter at the last end": (NUMBERS + b"1,2,3,", None),
    "text at first": (b"a,b,c\n1,u,3\n" + NUMBERS, 0),
}


@pytest.mark.parametrize("kind", PIECES)
def test_pieces_are_the_same_whichever_reader_takes_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("polars")
    content, rows_of_polars = PIECES[kind]
    Path("n.csv").write_bytes(content)
    monkeypatch.setattr("nanotorch.training.data.polars_text.BYTES_AT_ONCE", 700)
    read = []

    def numbers(*arguments: Any) -> Any:
        values = numbers_by_polars(*arguments)
        read.append(0 if values is None else len(values))
        return values

    monkeypatch.setattr("nanotorch.training.data.text_files.numbers_by_polars", numbers)
    pieces = []
    for least in (0, 2**60):
        for name in ("WORTH_IT", "WORTH_IMPORT"):
            monkeypatch.setattr(f"nanotorch.training.data.text_files.{name}", least)
        taken: list[Any] = []
        try:
            for piece in text_chunks(Path("n.csv"), 64, Data(source="n.csv")):
                first = piece.lines
                lines = first + np.arange(len(piece.values)) if isinstance(first, int) else first
                facts = (piece.names, piece.categories, np.asarray(lines).tolist())
                taken.append((*facts, piece.values.tobytes()))
        except InputError as error:
            taken.append(str(error))
        pieces.append([repr(part) for part in taken])
    assert pieces[0] == pieces[1]
    assert sum(read) == rows_of_polars or (rows_of_polars is None and 0 < sum(read) <= 400)


@pytest.mark.parametrize("text", ["x,c,y\n1,u,a\n2,v\n3,u,b\n", "x,c,y\n1,u,a\n2,v,a,9\n3,u,b\n"])
@pytest.mark.parametrize("least", [0, 2**60])
def test_rows_of_another_width_are_refused_by_both(
    text: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanotorch.training.data.text_files.WORTH_IT", least)
    with pytest.raises(InputError, match=r"d\.csv:3: expected 3 columns"):
        table(text)


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1", "-2.5", "+3e2", ".5", "7."], [1, -2.5, 300, 0.5, 7]),
        (["1,234", "5"], [1234, 5]),
        (["1,5", "2"], [1.5, 2]),
        (["1.234,5", "2"], [1234.5, 2]),
        (["1 234", "5 678 901"], [1234, 5678901]),
        (["€3", "4 €", "£5.50"], [3, 4, 5.5]),
        (["12%", "7.5 %"], [12, 7.5]),
        (["1.5D+03", "-.25d-1", "2.D0", "7"], [1500, -0.025, 2, 7]),
        (["1.5D+03", "2D3"], None),
        (["1.5D"], None),
        (["1.5D+"], None),
        (["1,23", "1,234"], [1.23, 1.234]),
        (["1'234", "1’234.5"], [1234, 1234.5]),
        (["1\u202f234", "1\xa0234"], [1234, 1234]),
        (["\u22123", "4"], [-3, 4]),
        (["($3.50)", "-$4", "$-5"], [-3.5, -4, -5]),
        (["(3", "4"], None),
        (["-$-5"], None),
        (["3+"], None),
        (["1-2"], None),
        (["1_0"], None),
        (["٣"], None),
        (["0x10"], None),
        (["1,2,3"], None),
    ],
)
def test_numbers_are_read_however_they_are_written(
    cells: list[str], numbers: list[float] | None
) -> None:
    assert Numbers().read(cells) == numbers


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (["2024-09-30", "2025-01-05"], 19996),
        (["9/30/2024", "1/5/2025"], 19996),
        (["30/9/2024", "5/1/2025"], 19996),
        (["30.09.2024", "05.01.2025"], 19996),
        (["2024-09-30 12:00", "2025-01-05 00:00"], 19996.5),
        (["2024-09-30T12:00:00Z", "2025-01-05T00:00:00+01:00"], 19996.5),
        (["Sep 30, 2024", "Jan 5, 2025"], 19996),
        (["30 September 2024", "5 January 2025"], 19996),
        (["2024-09", "2025-01"], 19967),
        (["abc-12-34", "x"], None),
        (["12-345-678"], None),
        (["12", "13"], None),
    ],
)
def test_dates_are_days_in_the_format_of_all_of_them(cells: list[str], first: float | None) -> None:
    format = date_format(cells)
    assert (None if format is None else days(cells[0], format)) == first


@pytest.mark.parametrize(
    ("cells", "known"),
    [
        (["yes", "no"], True),
        (["TRUE", "FALSE"], True),
        (["0", "Yes"], True),
        (["Y", "N"], True),
        (["0", "1"], False),
        (["yes"], False),
        (["yes", "no", "maybe"], False),
    ],
)
def test_yes_and_no_are_known_in_many_words(cells: list[str], known: bool) -> None:
    assert (yes_or_no(cells) is not None) == known


# --- columns -----------------------------------------------------------------------------------


def rows(count: int, *columns: Callable[[int], Any]) -> str:
    return "".join(",".join(str(c(i)) for c in columns) + "\n" for i in range(count))


@dataclass
class Kind:
    """A table, the features it gives, and what is said about it."""

    text: str
    features: list[str]
    says: str | None = None
    keys: dict[str, Any] = field(default_factory=dict)


def ab(i: int) -> str:
    return "ab"[i % 2]


KINDS = {
    "ignored columns are not looked at": Kind(
        "code,x,y\n17,1,a\nB9,2,b\n23,3,a\n31,4,b", ["x"], keys={"ignore": ["code"]}
    ),
    "numbers with exceptions": Kind(
        "rooms,x,y\n1,1,a\n2,2,b\n3,2.5,a\n4+,3,b",
        ["rooms=1", "rooms=2", "rooms=3", "rooms=4+", "x"],
        r"'rooms': numbers, but '4\+' \(d.csv:5",
    ),
    "exceptions that are missing": Kind(
        "rooms,x,y\n1,1,a\n2,2,b\n3,2.5,a\n4+,3,b",
        ["rooms", "x"],
        "1 missing values .rooms 1.: filled",
        {"types": {"rooms": "number"}, "missing": "mean"},
    ),
    "numbers that are categories": Kind(
        "zip,x,y\n" + rows(20, lambda i: 10 + i % 3, lambda i: i, ab),
        ["zip=10", "zip=11", "zip=12", "x"],
        keys={"types": {"zip": "category"}},
    ),
    "yes and no": Kind(
        "m,x,y\n" + rows(20, lambda i: ("Yes", "No")[i // 2 % 2], lambda i: i, ab),
        ["m", "x"],
        "read as 1 for yes and 0 for no: m",
    ),
    "dates": Kind(
        "d,x,y\n" + rows(20, lambda i: f"2024-01-{i + 1:02}", lambda i: i * i, ab),
        ["d", "x"],
        r"read as dates \(year-month-day\), in days: d",
    ),
    "many numbers with an exception, where gaps are filled": Kind(
        "age,x,y\n" + rows(40, lambda i: "unknown" if i == 7 else i / 7, lambda i: i * i, ab),
        ["age", "x"],
        r"numbers, but 'unknown' \(d.csv:9, column 'age'\): what is no number is missing",
        {"missing": "mean"},
    ),
    "many numbers with an exception, where gaps are refused": Kind(
        "age,x,y\n" + rows(40, lambda i: "unknown" if i == 7 else i / 7, lambda i: i * i, ab),
        ["x"],
        r"numbers, but 'unknown' \(d.csv:9, column 'age'\): LEFT OUT",
    ),
    "columns of one name that are not in use": Kind(
        "c,c,x,y\nu,1,1,a\nv,2,2,b", ["x"], keys={"ignore": ["c"]}
    ),
    "the word for gaps among the categories": Kind(
        "c,x,y\n(missing),1,a\n,2,b\nu,3,a\nu,4,b",
        ["c=(missing)", "c=u", "x"],
        keys={"missing": "mean"},
    ),
    "names": Kind(
        "name,x,y\n" + rows(20, lambda i: f"Braund, {i}".replace(",", ""), lambda i: i * i, ab),
        ["x"],
        "'name': 20 different texts in 20 rows, such as 'Braund 0': LEFT OUT",
    ),
    "names that are wanted": Kind(
        "name,x,y\n" + rows(6, lambda i: f"n{i}", lambda i: i * i, ab),
        [*(f"name=n{i}" for i in range(6)), "x"],
        keys={"types": {"name": "category"}},
    ),
    "text that is all there is": Kind(
        "c,y\nred,a\nblue,b\ngreen,a", ["c=blue", "c=green", "c=red"]
    ),
    "an index without a name": Kind(
        ",x,y\n" + rows(9, lambda i: i, lambda i: i * i, ab),
        ["x"],
        "'Unnamed: 0': counts the rows: left out",
    ),
    "an index with a name": Kind(
        "id,x,y\n" + rows(9, lambda i: i + 1, lambda i: i * i, ab),
        ["x"],
        "'id': counts the rows: left out",
    ),
    "a count of rows": Kind(
        "a,x,y\n" + rows(30, lambda i: i + 1, lambda i: i * i, ab),
        ["a", "x"],
        "'a': counts the rows; if it is an index",
    ),
    "a column of nothing": Kind("x,e,y\n1,,a\n2,,b\n3,,a\n4,,b", ["x"], "'e': is empty: left out"),
    "a column of nothing, filled": Kind(
        "x,e,y\n1,,a\n2,,b\n3,,a\n4,,b", ["x"], "'e': is empty: left out", {"missing": "mean"}
    ),
    "a column of one value": Kind(
        "x,e,y\n1,7,a\n2,7,b\n3,7,a\n4,7,b", ["x", "e"], "1 constant .*: e"
    ),
    "rare values": Kind(
        "c,x,y\n"
        + rows(60, lambda i: "uvw"[i % 3] if i < 40 else f"r{i // 2}", lambda i: i * i, ab),
        ["c=u", "c=v", f"c={OTHER}", "x"],
        "11 of 13 values are rare",
        {"max_categories": 3},
    ),
    "gaps in text": Kind(
        "c,x,y\n" + rows(12, lambda i: ("u", "v", "")[i % 3], lambda i: i * i, ab),
        ["c=u", "c=v", f"c={GAP}", "x"],
        "4 missing values .c 4.: a category of their own",
        {"missing": "mean"},
    ),
    "a target that is missing": Kind(
        "x,z,y\n1,5,a\n2,6,b\n3,7,", ["x", "z"], "1 of 3 rows are left out", {"missing": "drop"}
    ),
    "a target that is missing, and gaps that are filled": Kind(
        "x,z,y\n1,,a\n2,6,b\n3,7,",
        ["x", "z"],
        "1 missing values .y 1.: 1 of 3 rows are left out",
        {"missing": "mean"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_become_what_they_are_and_it_is_said(kind: str) -> None:
    case = KINDS[kind]
    found = prepared(case.text, **case.keys)
    assert found.encoding.feature_names == case.features
    assert np.isfinite(found.train.features.values).all()
    if case.says is not None:
        assert any(re.search(case.says, note) for note in found.notes), found.notes


def test_a_target_of_numbers_with_exceptions_is_made_numbers_by_its_type() -> None:
    text = "x,y\n1,1\n2,2\n3,4+\n4,5.5\n"
    with pytest.raises(InputError, match=r"target 'y' is text.*: '4\+' \(d.csv:4, column 'y'\)"):
        prepared(text, "linear")
    found = prepared(text, "linear", types={"y": "number"}, missing="drop")
    assert found.train.target.ravel().tolist() == [1, 2, 5.5]


WRITTEN = {  # files that show only with the run's keys, or its columns, how they are to be read
    "another delimiter": ("x~z~y\n1~5~a\n2~6~b\n", {"delimiter": "~"}),
    "a comment": ("// so\nx,z,y\n1,5,a\n2,6,b\n", {"comment": "//"}),
    "years as names": ("2010,2011,y\n1,2011,a\n2,2010,b\n", {}),
    "no header": ("1,5,a\n2,6,b\n", {"target": -1}),
    "decimal commas": ("x;z;y\n1,5;5;a\n2,5;6;b\n", {}),
    "a missing number": (
        "x,z,y\n1,5,a\n-9,6,b\n3,7,a\n",
        {"missing_values": [-9], "missing": "mean"},
    ),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_file_is_predicted_and_measured_as_it_was_read(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, keys = WRITTEN[kind]
    Path("d.csv").write_text(text)
    data = {"source": "d.csv", "target": "y", "test": 0.0, "validation": 0.0, **keys}
    config = {"data": data, "training": {"epochs": 1}, "device": "cpu"}
    run = fit({**config, "output": {"curves": False, "report": False}}, quiet=True)
    for command in ("predict", "evaluate"):
        code = exit_code(COMMANDS[command], [str(run.folder), "d.csv"], command)
        assert code == 0, capsys.readouterr().err
    assert "never met" not in capsys.readouterr().err


def test_new_rows_may_be_written_in_another_way(capsys: pytest.CaptureFixture[str]) -> None:
    Path("d.csv").write_text("x;z;y\n1,5;5;a\n2,5;6;b\n")
    data = {"source": "d.csv", "test": 0.0, "validation": 0.0}
    quick = {"output": {"curves": False, "report": False}, "training": {"epochs": 1}}
    run = fit({"data": data, "device": "cpu", **quick}, quiet=True)
    Path("e.csv").write_text("z,x\n5,1.5\n6,2.5\n")
    assert exit_code(COMMANDS["predict"], [str(run.folder), "e.csv"], "predict") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "outside" not in printed.err


def test_two_columns_of_one_name_are_named() -> None:
    with pytest.raises(InputError, match="two columns are called 'x'"):
        prepared("x,x,y\n1.0,5,a\n2.0,6,b")


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0, 1e8, 1.7e9, 5e38, 1e300])
def test_a_large_offset_hides_no_signal(dtype: str, offset: float) -> None:
    step = max(1.0, offset * 1e-12)
    noise = np.random.default_rng(0).standard_normal(50).round(3)
    text = "x,y\n" + "".join(f"{offset + step * n!r},{int(n > 0)}\n" for n in noise.tolist())
    Path("d.csv").write_text(text)
    part = prepare(Data(source="d.csv", test=0.0, validation=0.0), "logistic", 0, dtype=dtype).train
    z = part.features.values[:, 0]
    assert z.dtype == dtype
    expected = (noise - noise.mean()) / noise.std()
    np.testing.assert_allclose(z, expected, atol=1e-2)


def test_categories_are_not_standardized() -> None:
    found = prepared("c,x,y\n" + rows(30, lambda i: "uvw"[i % 3], lambda i: i * i, ab))
    assert set(found.train.features.values[:, :3].ravel()) == {0.0, 1.0}
    assert found.train.features.values[:, 3].std() == pytest.approx(1)


def test_a_split_by_time_sorts_dates_as_dates() -> None:
    days_ = ["9/30/2024", "1/5/2025", "12/1/2024", "10/2/2024", "2/1/2025"]
    text = "d,x,y\n" + rows(50, lambda i: days_[i % 5], lambda i: i % 5, ab)
    found = prepared(text, split="time", time="d", test=0.2, validation=0.2, standardize=False)
    assert found.validation is not None and found.test is not None
    parts = [
        set(part.features.values[:, 0].tolist())
        for part in (found.train, found.validation, found.test)
    ]
    assert parts == [{0.0, 2.0, 3.0}, {1.0}, {4.0}]
