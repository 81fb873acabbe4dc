"""Write the README's tables from the committed reference results: python tools/readme.py [--check]."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from xbench.report.tables import interval, number
from xbench.tables import leaderboard, runs
from xbench.tables.leaderboard import Cell

README = Path(__file__).parent.parent / "README.md"
LITE, RESNET, VIT = "efficientnet_lite0", "scenes/resnet", "scenes/vit"
Columns = dict[str, tuple[str, str]]  # head -> (model, metric)
TABLES: dict[str, Columns] = {
    "table": {
        "insertion ↑": (LITE, "insertion(steps=exact(10))"),
        "deletion ↓": (LITE, "deletion(steps=exact(10))"),
        "grid pointing ↑": (LITE, "grid_pointing"),
        "hit ↑": (LITE, "grid_pointing_hit"),
    },
    "scenes": {
        "CNN: mass ↑": (RESNET, "relevance_mass"),
        "hit ↑": (RESNET, "pointing_game(tolerance=0)"),
        "ViT: mass ↑": (VIT, "relevance_mass"),
        " hit ↑": (VIT, "pointing_game(tolerance=0)"),
    },
    "groups": {
        "`mprt` ↓": (RESNET, "mprt(stages=2)"),
        "`random_logit` ↓": (RESNET, "random_logit"),
        "`sensitivity_max` ↓": (RESNET, "sensitivity_max(n=3)"),
        "`ses` ↑": (RESNET, "ses"),
        "`sparseness`": (RESNET, "sparseness"),
    },
}


def written(text: str) -> str:
    """The README's text with its tables made anew."""
    rows, manifest = runs.read(README.parent / "results" / "quick")
    board = leaderboard.build(rows, manifest)
    cells: dict[tuple[str, str, str], Cell] = {}
    lines: dict[str, dict[str, bool]] = {}  # model -> method -> whether it is a control, in the table's order
    for table in board.tables:
        lines[table.model] = {line.method: line.control for line in table.lines}
        for line in table.lines:
            cells |= {(table.model, c.metric, line.method): cell for c, cell in zip(table.columns, line.cells, strict=True)}
    for name, columns in TABLES.items():
        controls: dict[str, bool] = {}
        for model, _ in columns.values():
            controls |= {method: control for method, control in lines[model].items() if method not in controls}
        out = ["| method |" + "|".join(f" {head.strip()} " for head in columns) + "|", "|---|" + "---:|" * len(columns)]
        for method in sorted(controls, key=lambda method: controls[method]):
            texts = [_cell(cells.get((*column, method)), brief=name == "groups") for column in columns.values()]
            out.append(f"| `{method}`{' (control)' if controls[method] else ''} | " + " | ".join(texts) + " |")
        body = f"<!-- {name} -->\n\n" + "\n".join(out) + f"\n\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.+?<!-- /{name} -->", lambda _, body=body: body, text, flags=re.DOTALL)
    return text


def _cell(cell: Cell | None, brief: bool) -> str:
    if cell is None or not cell.estimate.n:
        return "n/a"
    return number(cell.estimate.mean) + ("" if brief else f" {interval(cell.estimate)}{cell.mark}")


if __name__ == "__main__":
    old = README.read_text(encoding="utf-8")
    new = written(old)
    if "--check" in sys.argv and new != old:
        sys.exit("README.md: its tables are not those of results/quick; run: python tools/readme.py")
    README.write_text(new, encoding="utf-8")
