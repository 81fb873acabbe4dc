"""The gate as a team uses it: on the command line and in pytest, with a method of its own in a file of its own."""

import subprocess
import sys
from xml.etree import ElementTree

import pytest

SUITE = """
name = "mine"
version = "1"
batch_size = 4
models = ["tiny_net"]
methods = ["own_cam"]
controls = ["tiny_noise"]

[[tracks]]
dataset = "tiny_pictures(n=60)"
target = "label"
metrics = ["tiny_mass"]
"""

METHOD = '''
from xbench import NotApplicable, method


def gone():
    raise NotApplicable("its layer is gone")


@method("own_cam", needs={{"feature_maps", "gradients"}})
def own_cam(model, batch):
    """A map."""
    activations, gradients = model.feature_gradients(batch)
    cam = (activations * gradients).sum(dim=1).relu()
    return {result}
'''

HONEST, WORSE, SAME = "cam", "-cam", "cam + 0 * cam"


@pytest.fixture
def here(tmp_path, tiny_plugin):
    (tmp_path / "mine.toml").write_text(SUITE)
    write(tmp_path, HONEST)
    run(tmp_path, "run", "mine.toml", *plugins(tiny_plugin), "--out", "run")
    who = ("--name", "baseline", "--by", "us", "--suite", "mine.toml", "--out", "baseline")
    submitted = run(tmp_path, "submit", "run", *who, *plugins(tiny_plugin))
    assert submitted.returncode == 0, submitted.stderr
    return tmp_path


def plugins(tiny):
    return "--plugin", tiny, "--plugin", "own.py"


def write(folder, result):
    (folder / "own.py").write_text(METHOD.format(result=result))


def run(folder, *arguments):
    command = [sys.executable, "-c", "from xbench.cli import cli; cli()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_the_gate_follows_the_code_at_hand(here, tiny_plugin):
    again = ("run", "mine.toml", *plugins(tiny_plugin), "--out", "run")
    gate = ("gate", "baseline", "run", "--junit", "junit.xml", "--summary", "summary.md")
    unchanged = run(here, *gate)
    assert (unchanged.returncode, unchanged.stderr) == (0, "")
    assert unchanged.stdout == "gate: pass (1 pass)\n"

    write(here, WORSE)  # no version says so: the source does
    stale = run(here, *gate)
    assert stale.returncode == 2
    assert "own.py has changed); run it again" in stale.stdout
    assert run(here, *again).returncode == 0
    worse = run(here, *gate)
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "regression: own_cam, tiny_mass on tiny_pictures(n=60), tiny_net" in worse.stdout
    assert ElementTree.parse(here / "junit.xml").getroot().get("failures") == "1"
    assert "Explanations got worse" in (here / "summary.md").read_text()

    write(here, SAME)
    run(here, *again)
    assert run(here, *gate).returncode == 0
    (here / "mine.toml").write_text(SUITE.replace('target = "label"', 'target = "prediction"'))
    run(here, *again)
    other = run(here, *gate)
    assert other.returncode == 2
    assert "tiny_net: the protocol differs: it was 'target label" in other.stdout


def test_a_method_that_gives_fewer_maps_is_no_pass(here, tiny_plugin):
    for left, lost in (("item.id != 'picture_3'", 4), ("item.id > 'picture_3'", 28), ("False", 60)):
        write(here, f"cam if all({left} for item in batch.items) else gone()")
        run(here, "run", "mine.toml", *plugins(tiny_plugin), "--out", "run")
        judged = run(here, "gate", "baseline", "run")
        assert judged.returncode == 2, judged.stdout
        said = f"{lost} of 60 items with a value in the baseline count no more (not applicable: its layer is gone on {lost})"
        assert said in judged.stdout
    (here / "gate.toml").write_text("lost = 0.1\n")
    write(here, "cam if all(item.id != 'picture_3' for item in batch.items) else gone()")
    run(here, "run", "mine.toml", *plugins(tiny_plugin), "--out", "run")
    judged = run(here, "gate", "baseline", "run")
    assert judged.returncode == 0, judged.stdout
    assert "4 of 60 items" in judged.stdout  # let go of, but not in silence


def test_a_run_of_another_seed_is_not_judged(here, tiny_plugin):
    run(here, "run", "mine.toml", *plugins(tiny_plugin), "--out", "other", "--seed", "1")
    judged = run(here, "gate", "baseline", "other")
    assert (judged.returncode, judged.stdout.splitlines()[1]) == (
        2,
        "cannot judge: the run has seed 1, the baseline 0; run it with --seed 0",
    )


def test_margins_are_read_from_the_folder_or_the_option(here, tiny_plugin):
    write(here, WORSE)
    run(here, "run", "mine.toml", *plugins(tiny_plugin), "--out", "run")
    (here / "gate.toml").write_text("[margins]\ntiny_mass = 5.0\n")
    assert run(here, "gate", "baseline", "run").returncode == 0
    (here / "strict.toml").write_text("[margins]\ntiny_mass = 0.001\n")
    assert run(here, "gate", "baseline", "run", "--margins", "strict.toml").returncode == 1
    wrong = run(here, "gate", "baseline", "nowhere")
    assert wrong.returncode == 2
    assert "nowhere is not a run directory" in wrong.stderr


def pytest_run(folder, *options):
    # By module and not by entry point, so that this holds in a checkout that is not installed, too.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xbench", "-p", "xbench.cli.pytest_plugin", "-p", "no:cacheprovider"]
    return subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder, check=False)


def test_the_fixture_in_a_teams_own_tests(here, tiny_plugin):
    call = f'xbench_gate("mine.toml", plugins=[{tiny_plugin!r}, "own.py"])'
    (here / "test_own.py").write_text(f"def test_explanations(xbench_gate):\n    assert {call}.verdict == 'pass'\n")
    assert "1 skipped" in pytest_run(here).stdout
    good = pytest_run(here, "--xbench-baseline", "baseline")
    assert "1 passed" in good.stdout, good.stdout
    write(here, WORSE)
    bad = pytest_run(here, "--xbench-baseline", "baseline")
    assert bad.returncode == 1
    assert "regression: own_cam, tiny_mass on tiny_pictures(n=60), tiny_net" in bad.stdout
    (here / "pytest.ini").write_text("[pytest]\nxbench_baseline = baseline\nxbench_margins = wide.toml\n")
    (here / "wide.toml").write_text("spread = 50.0\n")
    assert "1 passed" in pytest_run(here).stdout
    (here / "test_own.py").write_text("def test_explanations(xbench_gate):\n    xbench_gate('no_such_suite')\n")
    assert "xbench: unknown suite 'no_such_suite'" in pytest_run(here).stdout
