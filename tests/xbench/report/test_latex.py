"""The LaTeX form by its structure: environments balance, rows have a cell for each column, nothing special is left bare."""

import re

import pytest

from xbench.api import Outcome
from xbench.report.latex import escaped, to_latex
from xbench.run import pipeline

KNOWN = {
    *("caption", "centering", "small", "setlength", "tabcolsep", "toprule", "midrule", "bottomrule", "par", "medskip", "linewidth"),
    *("footnotesize", "raggedright", "scriptsize", "textbf", "uparrow", "downarrow", "rightarrow", "pm", "times", "geq", "leq"),
    *("multicolumn", "cmidrule", "S"),
    *("dag", "ddag", "textless", "textgreater", "textbar", "textasciitilde", "textasciicircum", "textbackslash", "textasciigrave"),
}


@pytest.fixture
def text(tiny_suite, tmp_path):
    board = Outcome.of(pipeline.run(tiny_suite, out=tmp_path / "run")).leaderboard()
    board.title = r"50% of_a & b {c} #1 $2 x^2 ~ \end <`>"
    return to_latex(board)


def tabulars(text):
    return re.findall(r"\\begin\{tabular\}\{([^}]*)\}\n(.*?)\\end\{tabular\}", text, flags=re.DOTALL)


def test_environments_balance(text):
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert len(re.sub(r"\\\$", "", text).split("$")) % 2 == 1


def test_every_row_has_a_cell_per_column(text):
    ((columns, body),) = tabulars(text)
    rows = [line for line in body.splitlines() if not line.endswith("rule") and "cmidrule" not in line]
    assert len(columns) == 1 + 3 + 3  # method, three columns, rank, forwards, backwards
    assert len(rows) == 3 + 3 + 2  # three heads, three methods, two controls
    spanned = [int(width) for width in re.findall(r"\\multicolumn\{(\d)\}", rows[0])]
    assert len(re.split(r"(?<!\\)&", rows[0])) + sum(width - 1 for width in spanned) == len(columns)
    assert re.findall(r"\\cmidrule\(lr\)\{(\d-\d)\}", body) == ["2-2", "3-4"]  # deletion; mass on two datasets
    for row in rows[1:]:
        assert row.endswith(r" \\")
        assert len(re.split(r"(?<!\\)&", row)) == len(columns)


def test_controls_stand_below_a_rule(text):
    ((_, body),) = tabulars(text)
    _, methods, controls = body.split("\\midrule\n")
    assert "tiny\\_cam" in methods
    assert "tiny\\_noise" in controls
    assert "\\textbf" not in controls


def test_nothing_special_is_left_bare(text):
    assert text.startswith("% \\usepackage{booktabs}\n")
    commands = set(re.findall(r"\\([a-zA-Z]+)", text.partition("\n")[2]))
    assert commands <= KNOWN | {"begin", "end"}
    body = "\n".join(line for line in text.splitlines()[1:] if not line.startswith(r"\begin{tabular}"))
    bare = re.sub(r"\\([#%_&{}$\\])", "", body)
    assert not set("#%^~_|<>`") & set(bare)
    ((_, rows),) = tabulars(text)
    assert "&" not in bare.replace(re.sub(r"\\([#%_&{}$\\])", "", rows), "")
    assert set(re.findall(r"[^\x00-\x7f]", text)) == set()


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("relevance_mass ↑", r"relevance\_mass $\uparrow$"),
        ("95 % of a & b", r"95 \% of a \& b"),
        (r"a\b{c}", r"a\textbackslash{}b\{c\}"),
        ("±.03†‡§", r"$\pm$.03\dag{}\ddag{}\S{}"),
        ("[.1, .2]", "[.1, .2]"),
    ],
)
def test_escaped(plain, latex):
    assert escaped(plain) == latex
