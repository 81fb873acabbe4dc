"""What all tests share: the tiny plug-ins, and a suite made of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, settings

from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry

TINY = Path(__file__).with_name("tiny.py")
CLIPS = Path(__file__).with_name("tiny_clips.py")
torch.set_num_threads(1)
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test asks the clock
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def _tiny() -> None:
    registry.load(str(TINY))


@pytest.fixture(scope="session")
def clips() -> ModuleType:
    """The module tiny_clips.py."""
    pytest.importorskip("open_clip")
    spec = importlib.util.spec_from_file_location("tiny_clips", CLIPS)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mutant(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, str, str], ModuleType]:
    """(module, what to replace in its source, by what): the module, so changed."""

    def load(module: ModuleType, old: str, new: str) -> ModuleType:
        assert module.__file__
        source = Path(module.__file__).read_text()
        assert source.count(old) == 1
        made = ModuleType("mutant")
        monkeypatch.setitem(sys.modules, "mutant", made)
        exec(source.replace(old, new), vars(made))
        return made

    return load


@pytest.fixture
def tiny_plugin() -> str:
    return str(TINY)


@pytest.fixture
def tiny_suite() -> Suite:
    """Two tracks (labels and present classes), three methods, two controls."""
    return Suite(
        name="tiny",
        version="1",
        batch_size=4,
        block=2,
        gallery=2,
        models=["tiny_net"],
        methods=["tiny_cam", "tiny_gradient", "tiny_negated(tiny_cam)"],
        controls=["tiny_noise", "tiny_truth"],
        tracks=[
            Track(dataset="tiny_pictures", metrics=["tiny_deletion", "tiny_mass"], target="label"),
            Track(dataset="tiny_pictures(n=3)", metrics=["tiny_mass"], target="present", view="full"),
        ],
    )


@pytest.fixture
def tiny_model():
    return registry.bind("model", "tiny_net")()
