"""Draws core, stock and rings, as scripts/rooms.py has them, for ARCHITECTURE.md.

python scripts/draw_rooms.py            writes docs/images/rooms.svg
python scripts/draw_rooms.py --check    fails where that file is not up to date
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import rooms

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "rooms.svg"
WIDTH, HEIGHT = 760, 640
X, Y = WIDTH / 2, 312.0
CORE, STOCK, RINGS = 126.0, 190.0, 300.0  # the radii of the three
LINE = 15.0
# Fill and border of each.
COLOURS = {
    "core": ("#ffe8c7", "#c77d0a"),
    "stock": ("#f4f5f7", "#8a94a6"),
    "ring": ("#dcebff", "#3b78c4"),
}


def point(radius: float, angle: float) -> tuple[float, float]:
    """A point around the centre; angles run clockwise from the top."""
    return X + radius * math.sin(angle), Y - radius * math.cos(angle)


def text(words: str, x: float, y: float, kind: str = "t") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{words}</text>'


def disc(radius: float, kind: str) -> str:
    fill, border = COLOURS[kind]
    return f'<circle cx="{X}" cy="{Y}" r="{radius}" fill="{fill}" stroke="{border}"/>'


def segment(name: str, number: int, count: int) -> list[str]:
    """One ring: a piece of the outer band, and its name in it."""
    start, end = (2 * math.pi * (number + side) / count for side in (0, 1))
    (x1, y1), (x2, y2) = point(RINGS, start), point(RINGS, end)
    (x3, y3), (x4, y4) = point(STOCK, end), point(STOCK, start)
    fill, border = COLOURS["ring"]
    shape = (
        f'<path d="M{x1:.1f},{y1:.1f} A{RINGS},{RINGS} 0 0 1 {x2:.1f},{y2:.1f} L{x3:.1f},{y3:.1f} '
        f'A{STOCK},{STOCK} 0 0 0 {x4:.1f},{y4:.1f} Z" fill="{fill}" stroke="{border}"/>'
    )
    middle = (start + end) / 2
    share = 0.5 + 0.2 * abs(math.cos(middle))  # above and below, words have more room further out
    x, y = point((1 - share) * STOCK + share * RINGS, middle)
    words = name.split()
    top = y - LINE * (len(words) - 1) / 2 + 4
    return [shape, *(text(word, x, top + LINE * i) for i, word in enumerate(words))]


def rows_of(names: list[str], heights: list[float]) -> list[str]:
    """The names in rows, each as long as the disc is wide there."""
    rows, rest = [], list(names)
    for height in heights:
        room = 2 * math.sqrt(CORE**2 - height**2) - 40
        row: list[str] = []
        while rest and 6.4 * len(" · ".join([*row, rest[0]])) <= room:
            row.append(rest.pop(0))
        rows.append(" · ".join(row))
    if rest:
        raise SystemExit(f"draw_rooms.py: no room for {', '.join(rest)} in the core's disc")
    return rows


def drawing() -> str:
    """The picture as SVG."""
    names = [Path(path).stem for path in rooms.CORE]
    heights = [-58 + 18.0 * row for row in range(9)]
    folders = [p for p in rooms.STOCK if p.endswith("/") or ("/" not in p and "_" not in p)]
    stock = [Path(path).stem for path in folders if path not in ("nn/utils/",)]
    parts = [disc(STOCK, "stock"), disc(CORE, "core")]
    for number, ring in enumerate(rooms.RINGS):
        parts += segment(ring, number, len(rooms.RINGS))
    parts.append(text("core", X, Y - 84, "h"))
    for row, height in zip(rows_of(names, heights), heights, strict=True):
        parts.append(text(row, X, Y + height + 4, "s"))
    parts.append(text("stock", X, Y - CORE - 24, "h"))
    for start, end, height in ((0, 4, 16), (4, 7, 33), (7, None, 50)):
        parts.append(text(" · ".join(stock[start:end]), X, Y + CORE + height, "s"))
    parts.append(
        text(
            "A ring enters by modes.rings, to read primitives, and by modes.listener, to hear of "
            "the rest.",
            X,
            HEIGHT - 12,
        )
    )
    style = (
        "text{font:12px ui-sans-serif,'Helvetica Neue',Arial,sans-serif;fill:#1d2430;"
        "text-anchor:middle}.h{font-weight:bold;font-size:14px}.s{font-size:11px;fill:#3c4656}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}">',
            f"<title>The core, its stock and the rings around them</title><style>{style}</style>",
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if PICTURE.read_text(encoding="utf-8") != drawing():
            sys.exit(
                f"draw_rooms.py: {PICTURE} is not up to date; run python scripts/draw_rooms.py"
            )
    else:
        PICTURE.write_text(drawing(), encoding="utf-8")
