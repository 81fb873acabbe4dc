"""A pytest plug-in: explanation quality of a team's own model, asserted in its own tests.

    def test_explanations(xbench_gate):
        xbench_gate("explanations.toml", plugins=["my_model.py"])

    pytest --xbench-baseline explanations/baseline

The fixture runs the suite with the code at hand and fails where the gate does not pass; see docs/gate.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xbench.tables.gate import Report


class Gate:
    """What the fixture gives: call it with a suite."""

    def __init__(self, baseline: Path, margins: Path | None, scratch: Path) -> None:
        self.baseline, self.margins, self.scratch = baseline, margins, scratch

    def __call__(
        self,
        suite: str | None = None,
        *,
        methods: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        plugins: Sequence[str] = (),
        out: str | Path | None = None,
    ) -> Report:
        """Run a suite (that of the baseline by default) and hold it against the baseline. -> the gate's report, where it passes.

        Args:
            suite: a name or the path of a TOML file.
            methods: specs instead of the suite's.
            models: specs instead of the suite's.
            plugins: files or modules to load first.
            out: a directory that keeps the rows, to compute only what changed.

        Fails the test, with what got worse or what would settle it, where the gate does not pass.
        """
        import xbench
        from xbench.errors import XbenchError
        from xbench.report import verdicts
        from xbench.tables import gate, runs

        try:
            baseline = runs.read(self.baseline)
            name = suite or baseline[1].suite
            done = xbench.run(name, methods=methods, models=models, plugins=plugins, out=out or self.scratch / "run")
            margins = gate.load(self.margins) if self.margins else None
            report = gate.judge(baseline, (done.rows, done.manifest), margins, fresh=False)  # it was run just now
        except XbenchError as error:
            pytest.fail(f"xbench: {error}", pytrace=False)
        if report.exit_code:
            pytest.fail("\n".join(verdicts.to_lines(report)), pytrace=False)
        return report


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, and the same as settings of pytest's own file."""
    group = parser.getgroup("xbench", "explanation quality")
    group.addoption("--xbench-baseline", metavar="DIR", help="Published results or a run directory to hold explanations against.")
    group.addoption("--xbench-margins", metavar="FILE", help="A gate.toml: how much loss is let pass.")
    parser.addini("xbench_baseline", "The same as --xbench-baseline.")
    parser.addini("xbench_margins", "The same as --xbench-margins.")


@pytest.fixture
def xbench_gate(request: pytest.FixtureRequest, tmp_path: Path) -> Gate:
    """Hold explanations against a baseline; the test is skipped where none is named."""
    baseline, margins = (_setting(request.config, name) for name in ("baseline", "margins"))
    if baseline is None:
        pytest.skip("no baseline: give --xbench-baseline DIR, or set xbench_baseline")
    return Gate(baseline, margins, tmp_path)


def _setting(config: pytest.Config, name: str) -> Path | None:
    """A path of the command line, or one of pytest's own file, which is relative to that file."""
    if given := config.getoption(f"--xbench-{name}"):
        return Path(given)
    written = config.getini(f"xbench_{name}")
    return config.rootpath / written if written else None
