"""The calls of NumPy that a kernel makes for a tile, for tiles of any number of rows.

A kernel is noted twice, for two numbers of rows. Where both times it makes the same calls, they are
its calls for any number, and the dimensions that differ are those of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nanotorch.backend import HOST, MODULES, Array
from nanotorch.compile.calls import Call, Choice, View, calls_of
from nanotorch.compile.recorder import Kernel
from nanotorch.compile.rows import COLUMNS, ROWS, Role


class TileCalls(NamedTuple):
    """The notes of a kernel, what stands for its operands in them, and its temporaries: an array of
    the form of each, for a whole tile, and the slice of it that n rows need."""

    notes: list[Any]
    operands: list[Any]
    out: Array
    temporaries: list[tuple[Array, str]]


def calls_of_tile(step: Kernel, kinds: list[str], found: Role, rows: int) -> TileCalls | None:
    """The calls of a kernel for a tile of so many rows; None where the kernel is to be called."""
    if step.xp is not HOST or rows < 2:
        return None
    whole, less = noted(step, kinds, found, rows), noted(step, kinds, found, rows - 1)
    if whole is None or less is None or len(whole.notes) != len(less.notes):
        return None
    known = {id(a) for a in (*whole.operands, whole.out) if type(a) in MODULES}
    for one, other in zip(whole.notes, less.notes, strict=True):
        if not matches(one, other, known):
            return None
        if isinstance(one, View):
            known.add(id(one.out))
        elif isinstance(one, Call) and id(one.out) not in known:
            known.add(id(one.out))
            differing = [d for d, n in enumerate(one.out.shape) if n != other.out.shape[d]]
            if len(differing) > 1:
                return None
            cut = f"[{':, ' * differing[0]}:n]" if differing else ""
            whole.temporaries.append((one.out, cut))
    return whole


def noted(step: Kernel, kinds: list[str], found: Role, rows: int) -> TileCalls | None:
    """The kernel's notes for the first rows of the batch."""
    operands: list[Any] = [cut(a, kind, rows) for a, kind in zip(step.operands, kinds, strict=True)]
    if found.shared >= 0:
        operands[found.shared] = HOST.asarray(operands[found.shared] / step.operands[1].size)
    out = cut(step.out, found.output, rows)
    changed = {key: eval(text, {"n": rows}) for key, text in found.attributes.items()}
    kernel = step.primitive.kernel
    notes = calls_of(kernel, tuple(operands), {**step.attributes, **changed}, out)
    return None if notes is None else TileCalls(notes, operands, out, [])


def cut(value: Any, kind: str, rows: int) -> Any:
    """The rows of an operand that a tile has; an array of its own identity."""
    if type(value) not in MODULES:
        return value
    return value[:rows] if kind == ROWS else value[:, :rows] if kind == COLUMNS else value[...]


def matches(one: Any, other: Any, known: set[int]) -> bool:
    """Whether two notes are the same but for the number of rows."""
    if type(one) is not type(other):
        return False
    if isinstance(one, View):
        return bool((one.method, one.arguments) == (other.method, other.arguments))
    if isinstance(one, Choice):
        return bool(one.outcome == other.outcome)
    if one.function is not other.function or one.keywords.keys() != other.keywords.keys():
        return False
    pairs = [*zip(one.arguments, other.arguments, strict=True)]
    pairs += [(value, other.keywords[key]) for key, value in one.keywords.items()]
    return all(same_operand(a, b, known) for a, b in pairs)


def same_operand(a: Any, b: Any, known: set[int]) -> bool:
    """Whether two operands are the same array, equal plain values, or the same constant, of which
    fewer rows need the beginning."""
    if type(a) not in MODULES or type(b) not in MODULES:
        return type(a) is type(b) and bool(a == b)
    if id(a) in known:
        return True
    return bool(
        a.ndim == b.ndim and (not a.ndim or (a[: len(b)] == b).all()) and a.flat[0] == b.flat[0]
    )


def texts_of(
    calls: TileCalls,
    names: list[str],
    out: str,
    whole: str,
    temporary: Callable[[Array, str], str],
    view: Callable[[], str],
    plan: Any,
) -> list[str]:
    """The lines of the calls. `names` are those of the operands, `out` that of what they fill, and
    `whole` calls the kernel, where it takes another branch."""
    known = {
        id(a): text for a, text in zip(calls.operands, names, strict=True) if type(a) in MODULES
    }
    known[id(calls.out)] = out
    lines: list[str] = []
    indent = ""
    for array, cut in calls.temporaries:
        known[id(array)] = temporary(array, cut)

    def name(value: Any) -> str:
        text: str = known.get(id(value)) or plan.value_text(value)
        constant = type(value) in MODULES and id(value) not in known
        return f"{text}[:n]" if constant and value.ndim else text

    for note in calls.notes:
        if isinstance(note, Choice):
            lines.append(f"{indent}if {'not ' if note.outcome else ''}{name(note.value)}:")
            lines += [f"{indent}    {whole}", f"{indent}else:"]
            indent += "    "
        elif isinstance(note, View):
            known[id(note.out)] = target = view()
            text = f"{target} = {known[id(note.base)]}.{note.method}"
            if note.arguments is not None:
                text += f"({', '.join(plan.value_text(a) for a in note.arguments)})"
            lines.append(indent + text)
        else:
            lines.append(indent + plan.call_text(note, name, name(note.out)))
    return [*lines, f"{indent}pass"] if indent else lines
