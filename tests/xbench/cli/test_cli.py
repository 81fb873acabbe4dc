"""The console script as users run it: exit codes, one-line errors, and what it prints."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydantic
import pytest

from xbench.cli import app, exits
from xbench.errors import XbenchError
from xbench.plugins.declarations import KINDS
from xbench.plugins.registry import Registry, registry
from xbench.run import catalogue

SUITE = """
name = "mine"
version = "1"
batch_size = 4
models = ["tiny_net"]
methods = ["tiny_cam"]
controls = ["tiny_noise"]

[[tracks]]
dataset = "tiny_pictures"
target = "label"
metrics = ["tiny_deletion", "tiny_mass"]
"""


def xbench(*arguments: object, cwd: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from xbench.cli import cli; cli()", *map(str, arguments)]

    def small_files() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    # Under the limit, a coverage measurement could not write its own file either.
    environment = {k: v for k, v in os.environ.items() if not (limit and k.startswith("COV"))}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, preexec_fn=small_files, check=False)


@pytest.fixture
def here(tmp_path):
    (tmp_path / "mine.toml").write_text(SUITE)
    return tmp_path


def test_help_imports_nothing_heavy(here):
    code = (
        "import sys\nfrom xbench.cli import cli\nsys.argv = ['xbench', '--help']\n"
        "try:\n cli()\nexcept SystemExit as e:\n assert not e.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'pyarrow', 'matplotlib', 'pydantic'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here, check=False)
    assert done.returncode == 0, done.stderr
    assert "leaderboard" in done.stdout


def test_run_then_again_then_leaderboard(here, tiny_plugin):
    first = xbench("run", "mine.toml", "--plugin", tiny_plugin, "--out", "run", cwd=here)
    assert first.returncode == 0, first.stderr
    assert "tiny_cam" in first.stdout
    assert "24 values computed" in first.stdout
    assert (here / "run" / "leaderboard.html").is_file()
    again = xbench("run", "mine.toml", "--plugin", tiny_plugin, "--out", "run", cwd=here)
    assert "nothing left to compute" in again.stdout
    for format_ in ("table", "csv", "md", "json", "html"):
        shown = xbench("leaderboard", "run", "--format", format_, cwd=here)
        assert shown.returncode == 0, shown.stderr
        assert "tiny_cam" in shown.stdout
    written = xbench("leaderboard", "run", "--format", "md", "--out", "table.md", cwd=here)
    assert written.returncode == 0
    assert "tiny_cam" in (here / "table.md").read_text()
    assert "tiny_deletion" in xbench("list", "metrics", "--plugin", tiny_plugin, cwd=here).stdout
    assert xbench("cite", "run", cwd=here).returncode == 0
    who = ("--name", "lab", "--by", "A. Tester", "--suite", "mine.toml", "--plugin", tiny_plugin)
    submitted = xbench("submit", "run", *who, cwd=here)
    assert submitted.stdout == "24 rows of 2 methods: results/submissions/mine/lab\n", submitted.stderr
    verified = xbench("verify", "results/submissions/mine/lab", cwd=here)
    assert verified.stdout == "results/submissions/mine/lab: 24 rows give its tables\n"
    assert "measured by A. Tester" in xbench("leaderboard", "results/submissions/mine/lab", cwd=here).stdout
    table = here / "results/submissions/mine/lab/leaderboard.md"
    table.write_text(table.read_text().replace("tiny_cam", "my_cam"))
    edited = xbench("verify", "results/submissions/mine/lab", cwd=here)
    assert (edited.returncode, edited.stderr.count("\n")) == (2, 1)
    assert xbench("tables", "results/submissions/mine/lab", cwd=here).returncode == 0
    assert xbench("verify", "results/submissions/mine/lab", cwd=here).returncode == 0


def test_what_computes_nothing_imports_no_torch(here, tiny_plugin):
    xbench("run", "mine.toml", "--plugin", tiny_plugin, "--out", "run", cwd=here)
    asked = [  # (arguments, exit code)
        (["--help"], 0),
        (["run", "mine.toml", "--nosuch"], 2),
        (["run", "nosuch"], 2),
        (["train", "nosuch"], 2),
        (["list", "methods"], 0),
        (["list", "metrics"], 0),
        (["list", "datasets"], 0),
        (["list", "models"], 0),
        (["list", "suites"], 0),
        (["list", "recipes"], 0),
        (["leaderboard", "run"], 0),
        (["leaderboard", "run", "--format", "html"], 0),
        (["compare", "run", "tiny_cam", "tiny_noise"], 0),
        (["gate", "run", "run"], 0),
        (["cite", "run"], 0),
        (["verify", "run"], 2),
        (["run", "mine.toml", "--plugin", tiny_plugin, "--out", "run"], 0),
    ]
    code = (
        "import sys\nfrom xbench.cli import app, exits\n"
        f"for arguments, code in {asked}:\n"
        "    assert exits.safely(app, arguments) == code, arguments\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "mine.toml", "--methods", "tiny_can"), "unknown method 'tiny_can'; did you mean 'tiny_cam'?"),
        (("run", "mine.toml", "--methods", "tiny_noise(sise=3)"), "no parameter 'sise'; did you mean 'size'?"),
        (("run", "mine.toml", "--methods", "tiny_cam("), "cannot read spec"),
        (("run", "mine.toml", "--methods", "tiny_broken(how=shape)"), "method tiny_broken(how=shape) returned"),
        (("run", "mine.toml", "--methods", "tiny_broken"), "method tiny_broken returned NaN or infinite maps"),
        (("run", "wrong.toml"), "line 4: unknown key 'batchsize'; did you mean 'batch_size'?"),
        (("run", "absent.toml"), "does not exist"),
        (("run", "mine.toml", "--nosuch"), "No such option: --nosuch"),
        (("run", "mine.toml", "--limit", "0"), "Invalid value for '--limit'"),
        (("run", "mine.toml", "--metrics", "tiny_mas"), "has no metric 'tiny_mas'; did you mean 'tiny_mass'?"),
        (("nosuch",), "No such command 'nosuch'"),
        (("run", "mine.toml", "--plugin", "absent.py"), "plug-in file absent.py does not exist"),
        (("leaderboard", "."), "is not a run directory"),
        (("leaderboard", "run", "--format", "htlm"), "unknown format 'htlm'; did you mean 'html'?"),
        (("list", "method"), "did you mean 'methods'?"),
        (("show", "tiny_can"), "unknown plug-in"),
        (("explain", "absent.png", "--model", "tiny_net", "--method", "tiny_cam"), "picture absent.png cannot be read"),
        (("explain", "scenes(n=2)", "--model", "tiny_net"), "scenes(n=2) is a dataset; say how many of its pictures"),
        (("explain", "p.png", "--text", "a ring", "--target", "1"), "give one or the other"),
        (("explain", "p.png", "--model", "tiny_net", "--method", "tiny_cam", "--target", "5000"), "classes are 0 to 4"),
        (("explain", "p.png", "--model", "tiny_net", "--method", "tiny_cam", "--target", "bea"), "did you mean 'bee'?"),
        (
            ("explain", "p.png", "--model", "tiny_net", "--method", "tiny_cam", "--out", "no/folder.png"),
            "cannot write no/folder.png",
        ),
        (("explain", "p.png", "--model", "tiny_net", "--method", "tiny_cam", "--out", "p.odd"), "ending in .png or .jpg"),
        (("explain", "p.png", "--model", "tiny_net", "--method", "tiny_broken(how=silly)"), "failed on p.png: KeyError"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(here, tiny_plugin, arguments, message):
    from PIL import Image

    (here / "wrong.toml").write_text(SUITE.replace("batch_size", "batchsize"))
    Image.new("RGB", (40, 40)).save(here / "p.png")
    if arguments[0] == "leaderboard":
        xbench("run", "mine.toml", "--plugin", tiny_plugin, "--out", "run", cwd=here)
    extra = () if arguments[0] in ("leaderboard", "nosuch") or "--plugin" in arguments else ("--plugin", tiny_plugin)
    done = xbench(*arguments, *extra, cwd=here)
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("xbench: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(here, tiny_plugin):
    full = xbench("run", "mine.toml", "--plugin", tiny_plugin, "--out", "run", cwd=here, limit=9000)
    assert full.returncode == 2
    assert "File too large" in full.stderr
    assert "Traceback" not in full.stderr
    done = xbench("run", "mine.toml", "--plugin", tiny_plugin, "--out", "run", cwd=here)
    assert done.returncode == 0, done.stderr
    undisturbed = xbench("run", "mine.toml", "--plugin", tiny_plugin, "--out", "other", cwd=here)
    assert undisturbed.returncode == 0
    tables = [xbench("leaderboard", run, "--format", "csv", cwd=here).stdout for run in ("run", "other")]
    strip = [[line.rpartition(",")[0] for line in table.splitlines()] for table in tables]  # the last column is seconds
    assert strip[0] == strip[1]


def test_explain_writes_a_sheet(here, tiny_plugin):
    from PIL import Image

    Image.new("RGB", (60, 40), (200, 30, 30)).save(here / "p.png")
    done = xbench("explain", "p.png", "--model", "tiny_net", "--method", "tiny_cam,tiny_noise", "--plugin", tiny_plugin, cwd=here)
    assert done.returncode == 0, done.stderr
    assert Image.open(here / "p-explained.png").size[0] > 300
    asked = ("--pictures", "3", "--model", "tiny_net", "--method", "tiny_cam", "--plugin", tiny_plugin, "--out", "three.png")
    done = xbench("explain", "tiny_pictures", *asked, cwd=here)
    assert done.stdout.startswith("3 pictures of tiny_pictures explained by tiny_cam"), done.stderr
    width, height = Image.open(here / "three.png").size
    assert height > 1.2 * width  # three rows of two


def test_show_list_and_doctor(here, tiny_plugin):
    shown = xbench("show", "tiny_noise", "--plugin", tiny_plugin, cwd=here)
    assert shown.returncode == 0, shown.stderr
    assert "parameter size: int, default 8" in shown.stdout
    listed = xbench("list", "methods", "--json", "--plugin", tiny_plugin, cwd=here)
    assert json.loads(listed.stdout)["tiny_cam"] == "Grad-CAM, spelled out."
    recipes = xbench("list", "recipes", cwd=here)
    assert "scenes_resnet" in recipes.stdout
    drawn = xbench("show", "tiny_pictures", "--plugin", tiny_plugin, "--out", "sheet.png", "--pictures", "3", cwd=here)
    assert drawn.returncode == 0, drawn.stderr
    assert (here / "sheet.png").is_file()
    checked = xbench("doctor", cwd=here)
    assert "torch" in checked.stdout
    assert checked.returncode in (0, 2)


def test_lists_say_what_the_plugins_say():
    """Though they are read from the sources."""
    for kind in KINDS:
        assert catalogue.listing(f"{kind}s").items() >= {id: registry.get(kind, id).summary for id in Registry().ids(kind)}.items()


def test_debug_shows_the_traceback(here):
    done = xbench("run", "absent.toml", "--debug", cwd=here)
    assert "Traceback" in done.stderr
    assert done.returncode == 2  # 1 is the gate's alone
    module = subprocess.run(
        [sys.executable, "-m", "xbench", "gate", "a", "b"], capture_output=True, text=True, cwd=here, check=False
    )
    assert (module.returncode, module.stderr.count("\n")) == (2, 1)


class Wrong(pydantic.BaseModel):
    number: int


def _validate() -> None:
    Wrong.model_validate({"number": "none"})


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("fails", "code", "message"),
    [
        (lambda: {}["columns"], 2, "unexpected error: KeyError: 'columns'; --debug shows where it happened"),
        (lambda: _raise(AssertionError()), 2, "unexpected error: AssertionError; --debug"),
        (lambda: _raise(RuntimeError("two\nlines")), 2, "unexpected error: RuntimeError: two lines; --debug"),
        (_validate, 2, "unexpected error: ValidationError: 1 validation error"),
        (lambda: _raise(SystemExit(1)), 2, "unexpected error: SystemExit: 1"),
        (lambda: _raise(XbenchError("two\nlines")), 2, "two lines"),
        (lambda: _raise(MemoryError()), 2, "out of memory"),
        (lambda: _raise(PermissionError(13, "Permission denied", "run/rows.parquet")), 2, "run/rows.parquet: Permission denied"),
        (lambda: _raise(OSError(28, "No space left on device")), 2, "No space left on device"),
        (lambda: _raise(KeyboardInterrupt()), 130, "interrupted; start the same command again"),
        (lambda: _raise(BrokenPipeError(32, "Broken pipe")), 141, ""),
    ],
)
def test_whatever_happens_is_one_line_and_never_exit_code_1(fails, code, message, monkeypatch, capsys):
    """Of the gate 1 means that explanations got worse, and nothing else may say so."""
    monkeypatch.setattr("xbench.tables.runs.read", lambda *_: fails())
    assert exits.safely(app, ["gate", "baseline", "run"]) == code
    printed = capsys.readouterr().err.strip()
    assert printed.count("\n") == 0
    assert message in printed
    if code == 2:
        assert exits.safely(app, ["--debug", "gate", "baseline", "run"]) == 2
        assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_regression(here):
    command = f"{sys.executable} -c 'from xbench.cli import cli; cli()' list methods"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"], capture_output=True, text=True, cwd=here, check=False
    )
    assert (done.returncode, done.stderr) == (141, "")
    full = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, cwd=here, check=False)
    assert (full.returncode, full.stderr) == (2, "xbench: No space left on device\n")


def test_damaged_runs_are_one_line(here, tiny_plugin):
    xbench("run", "mine.toml", "--plugin", tiny_plugin, "--out", "run", cwd=here)
    whole = json.loads((here / "run/manifest.json").read_text())
    table = pq.read_table(here / "run/rows.parquet")
    key = next(iter(whole["columns"]))
    bare = {k: v for k, v in whole["columns"][key].items() if k != "direction"}
    for manifest, rows, message in [
        (whole | {"columns": None}, table, "manifest.json is damaged (it lacks columns)"),
        ({k: v for k, v in whole.items() if k != "methods"}, table, "manifest.json is damaged (it lacks methods)"),
        (whole | {"columns": {key: bare}}, table, f"manifest.json is damaged (it lacks columns: {key}: direction)"),
        ([1, 2], table, "manifest.json is damaged (it is no object of JSON)"),
        (whole, table.drop_columns("status"), "rows.parquet is damaged (it lacks the column status of docs/rows.md)"),
        (whole, None, "rows.parquet is damaged"),
    ]:
        (here / "bad").mkdir(exist_ok=True)
        (here / "bad/manifest.json").write_text(json.dumps(manifest))
        (here / "bad/rows.parquet").write_text("no Parquet")
        if rows is not None:
            pq.write_table(rows, here / "bad/rows.parquet")
        for sides in (("run", "bad"), ("bad", "run")):
            done = xbench("gate", *sides, cwd=here)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
            assert message in done.stderr
            assert "unexpected" not in done.stderr


def test_shards_merge_on_the_command_line(here, tiny_plugin):
    for part in ("1/2", "2/2"):
        done = xbench("run", "mine.toml", "--plugin", tiny_plugin, "--shard", part, "--save-maps", cwd=here)
        assert done.returncode == 0, done.stderr
    merged = xbench("merge", "results/runs/mine-1of2", "results/runs/mine-2of2", "--out", "merged", cwd=here)
    assert merged.returncode == 0, merged.stderr
    assert "24 rows of 2 runs: merged" in merged.stdout
    assert (here / "merged" / "leaderboard.html").is_file()
    again = xbench("run", "mine.toml", "--plugin", tiny_plugin, "--save-maps", "--out", "merged", cwd=here)
    assert "nothing left to compute" in again.stdout


def test_maps_of_one_s_own_on_the_command_line(here, tiny_plugin):
    listed = xbench("items", "mine.toml", "--plugin", tiny_plugin, "--out", "items.csv", cwd=here)
    assert listed.returncode == 0, listed.stderr
    table = pd.read_csv(here / "items.csv")
    assert table["item"].tolist() == [f"picture_{i}" for i in range(6)]
    (here / "maps").mkdir()
    for row in table.itertuples():
        np.save(here / "maps" / f"{row.item}.npy", np.eye(8))
    xbench("run", "mine.toml", "--plugin", tiny_plugin, cwd=here)
    done = xbench("score", "maps", "--suite", "mine.toml", "--name", "diagonal", "--plugin", tiny_plugin, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "diagonal" in done.stdout
    assert "tiny_cam" in done.stdout
    assert "12 values computed" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "4/3"], "--shard 4/3 is not a part of the whole"),
        (["--dtype", "float16"], "unknown --dtype 'float16'"),
        (["--device", "cuda:7"], "cannot compute on cuda:7"),
        (["--device", "quantum"], "cannot compute on quantum"),
    ],
)
def test_wrong_ways_to_compute(here, tiny_plugin, options, message):
    done = xbench("run", "mine.toml", "--plugin", tiny_plugin, *options, cwd=here)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
