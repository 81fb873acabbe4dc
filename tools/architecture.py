"""Draw the rooms of the core from what their files import, and write the tables of rooms: python tools/architecture.py [--check].

It makes docs/pictures/architecture.svg and, in docs/architecture.md and CONTRIBUTING.md, what stands between the marks
``<!-- rooms -->`` and ``<!-- /rooms -->``. What happens in a room is the first sentence of its own docstring.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from xbench.plugins import rooms

ROOT = Path(__file__).parent.parent
CORE = ROOT / "xbench"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"
# From the ground up: a room imports only those that stand before it here.
ORDER = (
    "errors", "progress", "host", "plugins", "data", "maps", "network", "store", "plan", "evaluate", "stats", "tables", "report",
    "train", "run", "submit", "api", "cli", "plugin",
)  # fmt: skip
FAMILIES = ("methods", "metrics", "datasets", "models", "trainers")


class Import(NamedTuple):
    """A module, or a name of one, that a file imports, and in which line. level: of a relative import, the number of its dots."""

    module: str
    line: int
    level: int = 0


def imports(source: str) -> Iterator[Import]:
    """All imports of a source text: those inside functions, those for types only, and ``import_module("name")`` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(".".join(filter(None, (node.module, alias.name))), node.lineno, node.level)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (Import(str(a.value), node.lineno) for a in node.args if isinstance(a, ast.Constant))


def room_of(module: str) -> str:
    """``data`` of ``xbench.data.samples.Batch``, or a family; ``xbench`` of the package itself; empty of other packages."""
    package, _, rest = module.partition(".")
    if package != "xbench":
        return ""
    name = rest.partition(".")[0]
    return name if name in (*ORDER, *FAMILIES) else "xbench"


def files(room: str) -> list[Path]:
    """The Python files of a room, which is a folder or a module."""
    return sorted((CORE / room).rglob("*.py")) or [CORE / f"{room}.py"]


@functools.cache
def graph() -> dict[str, set[str]]:
    """Room -> the other rooms that its files import."""
    found = {room: {room_of(i.module) for path in files(room) for i in imports(path.read_text("utf-8"))} for room in ORDER}
    return {room: others.intersection(ORDER) - {room} for room, others in found.items()}


def direct(of: dict[str, set[str]]) -> dict[str, list[str]]:
    """Room -> what it stands on, from above down: of the rooms that it imports, those that no other of them imports in turn."""

    def below(room: str) -> set[str]:
        return of[room].union(*(below(other) for other in of[room]))

    kept = {room: [other for other in found if not any(other in below(o) for o in found)] for room, found in of.items()}
    return {room: sorted(found, key=ORDER.index, reverse=True) for room, found in kept.items()}


def shown(room: str) -> str:
    """A room's name as a path: a folder, or a module."""
    return f"{room}/" if (CORE / room).is_dir() else f"{room}.py"


def line(room: str) -> str:
    """What happens in a room: the first sentence of its docstring."""
    path = CORE / room / "__init__.py" if (CORE / room).is_dir() else CORE / f"{room}.py"
    text = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0].replace("``", "`")


def in_keys(room: str) -> str:
    """Whose rows an edit of a room makes new."""
    every = {part for part in rooms.COMPUTING if part.partition("/")[0] == room}
    if room in every:
        return "all rows"
    if inside := sorted(name for part in every if (name := part.partition("/")[2]) != "__init__"):
        return f"all rows: {', '.join(inside)}"
    if f"xbench.{room}" in rooms.DOORS:
        return "none by itself"
    return "rows of plug-ins that import it"


# -- tables ------------------------------------------------------------------------------------------------------------------


def table(keys: bool) -> str:
    """The rooms from above down, as a Markdown table. keys: also what they stand on, and whose rows an edit makes new."""
    heads = ["room", "what happens there", *(["stands on", "an edit makes new"] if keys else [])]
    on = direct(graph())
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for room in reversed(ORDER):
        more = [", ".join(f"`{other}`" for other in on[room]) or "nothing of xbench", in_keys(room)] if keys else []
        lines.append(f"| {' | '.join([f'`{shown(room)}`', line(room), *more])} |")
    return "\n".join(lines)


def written(text: str, keys: bool) -> str:
    """A page's text with its table of rooms made anew."""
    return re.sub(
        r"<!-- rooms -->.*?<!-- /rooms -->",
        lambda _: f"<!-- rooms -->\n\n{table(keys)}\n\n<!-- /rooms -->",
        text,
        flags=re.DOTALL,
    )


def walked(page: str, part: str) -> list[str]:
    """The rooms, from above down, whose files a part of the page's walk names."""
    (text,) = re.findall(rf"^### {part}\n(.*?)(?=^##)", page, re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`xbench/(\w+)", text))
    return [room for room in reversed(ORDER) if room in named]


# -- the picture -------------------------------------------------------------------------------------------------------------

LEFT, WIDTH, STEP, TALL, TOP = 206, 600, 46, 40, 46  # of the boxes, in pixels
SAID, LETTERS = 104, 54  # where a box's sentence begins, and how long its lines are
INK, GREY, EDGE, PAPER = "#1f2933", "#5b6775", "#cbd2d9", "#ffffff"
COMPUTES, DOOR, FAMILY = "#dbeafe", "#fde68a", "#dcfce7"
DOWN, UP = ("#b45309", LEFT + WIDTH + 34), ("#15803d", LEFT + WIDTH + 92)
BOLD, END, MIDDLE = ' font-weight="600"', ' text-anchor="end"', ' text-anchor="middle"'


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" stroke="{EDGE}"/>'


def _text(x: float, y: float, said: str, size: float = 12, fill: str = INK, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}"{more}>{escape(said)}</text>'


def _arrow(points: Iterable[tuple[float, float]], colour: str, more: str = "", head: bool = True) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    end = f' marker-end="url(#head{colour[1:]})"' if head else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{end}{more}/>'


def picture(page: str) -> str:
    """The rooms as boxes, those above standing on those below; the families around; and the way of ``xbench run``, of the page."""
    stack = [room for room in reversed(ORDER) if room != "plugin"]
    at = {room: TOP + STEP * i for i, room in enumerate(stack)}
    bottom = TOP + STEP * len(stack)
    width, height = UP[1] + 34, bottom + 28
    heads = "".join(
        f'<marker id="head{c[1:]}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L10,5 L0,10 z" fill="{c}"/></marker>'
        for c in (DOWN[0], UP[0], GREY)
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img"'
            ' aria-label="The rooms of the core, each standing on those below">',
            f"<defs>{heads}</defs>",
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
            *_stack(at),
            *_families(at),
            *_walk(at, page),
            *_legend(bottom),
            "</svg>\n",
        ]
    )


def _stack(at: dict[str, int]) -> Iterator[str]:
    on = direct(graph())
    for room, y in at.items():
        keyed = in_keys(room)
        yield _box(LEFT, y, WIDTH, TALL, COMPUTES if keyed == "all rows" else PAPER)
        if keyed.startswith("all rows:"):
            yield _box(LEFT, y, SAID - 8, TALL, COMPUTES)
        yield _text(LEFT + 8, y + 24, shown(room), 13, more=BOLD)
        wrapped = textwrap.wrap(line(room).replace("`", ""), LETTERS)
        for i, part in enumerate(wrapped):
            yield _text(LEFT + SAID, y + (24 if len(wrapped) == 1 else 17 + 15 * i), part)
        if stands := on[room]:
            yield from (_text(LEFT + WIDTH - 8, y + 17 + 13 * i, name, 10.5, GREY, END) for i, name in enumerate(_on(stands)))


def _on(stands: list[str]) -> list[str]:
    """In at most two lines."""
    return textwrap.wrap(f"on {', '.join(stands)}", 18)


def _families(at: dict[str, int]) -> Iterator[str]:
    x, width, top = 36, 118, at["cli"] + 10
    low, door = top + 36 * len(FAMILIES), at["report"]
    yield _text(x, top - 14, "families of plug-ins", 12, GREY)
    yield f'<rect x="{x - 8}" y="{top - 8}" width="{width + 16}" height="{low - top + 10}" rx="7" fill="none" stroke="{EDGE}"/>'
    for i, family in enumerate(FAMILIES):
        yield _box(x, top + 36 * i, width, 30, FAMILY)
        yield _text(x + 10, top + 36 * i + 20, f"{family}/", 13, more=BOLD)
    yield _arrow([(x + width / 2, low + 2), (x + width / 2, door - 3)], GREY)
    yield _text(x + width / 2 + 8, (low + door) / 2 + 6, "import only", 11, GREY)
    yield _box(x, door, width, TALL, DOOR)
    yield _text(x + 10, door + 17, "plugin.py", 13, more=BOLD)
    yield _text(x + 10, door + 32, "the door", 11, GREY)
    middle, bend = door + TALL / 2, LEFT - 24
    reached = sorted(at[room] + TALL / 2 for room in graph()["plugin"])
    yield _arrow([(x + width, middle), (bend, middle)], GREY, head=False)
    yield _arrow([(bend, min(reached)), (bend, max(reached))], GREY, head=False)
    yield from (_arrow([(bend, y), (LEFT - 2, y)], GREY) for y in reached)
    for i, said in enumerate(("what a plug-in", "may use of", "the rooms")):
        yield _text(bend - 8, door + TALL + 34 + 15 * i, said, 11, GREY, END)
    found, edge = at["plugins"] + 8, 14
    yield _arrow([(LEFT, found), (edge, found), (edge, top + 40), (x - 10, top + 40)], GREY, ' stroke-dasharray="4 4"')
    for i, said in enumerate(("the registry finds", "plug-ins by their", "entry points and", "imports them late")):
        yield _text(edge + 8, found - 54 + 15 * i, said, 11, GREY)


def _walk(at: dict[str, int], page: str) -> Iterator[str]:
    for (colour, x), part, said in ((DOWN, "Down", "request"), (UP, "Up", "rows")):
        stops = [at[room] + TALL / 2 for room in walked(page, part) if room in at]
        first, last = (min(stops), max(stops) + 16) if part == "Down" else (max(stops), min(stops) - 16)
        yield _arrow([(x, first), (x, last)], colour)
        yield from (f'<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}"/>' for y in stops)
        yield _text(x, TOP - 16, said, 12, colour, MIDDLE + BOLD)
    yield _text(LEFT + WIDTH - 8, TOP - 16, "xbench run:", 12, GREY, END)


def _legend(bottom: int) -> Iterator[str]:
    yield _box(LEFT, bottom + 3, 14, 14, COMPUTES)
    yield _text(LEFT + 20, bottom + 14, "an edit makes all stored rows new", 11, GREY)
    yield _box(LEFT + 230, bottom + 3, 14, 14, PAPER)
    yield _text(LEFT + 250, bottom + 14, "only the rows of plug-ins that import it", 11, GREY)


def made() -> dict[Path, str]:
    """What all files are to be."""
    page = written(PAGE.read_text("utf-8"), keys=True)
    contributing = ROOT / "CONTRIBUTING.md"
    return {PAGE: page, contributing: written(contributing.read_text("utf-8"), keys=False), PICTURE: picture(page)}


if __name__ == "__main__":
    for path, new in made().items():
        if "--check" in sys.argv:
            if not path.is_file() or path.read_text("utf-8") != new:
                sys.exit(f"{path.name} is not what the imports say; run: python tools/architecture.py")
        else:
            path.write_text(new, "utf-8")
