"""What a run changes in the process that it runs in, and that nothing of it stays."""

import ctypes
import logging
import os
import platform
import random
import signal
import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pytest
import torch

import xbench
from xbench import host
from xbench.errors import XbenchError
from xbench.plan.suite import Selection
from xbench.plugins.registry import registry
from xbench.run import pipeline

PRECISION = ("", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn", "mkldnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


def backend(name):
    found = torch.backends
    for part in filter(None, name.split(".")):
        found = getattr(found, part)
    return found


def seen():
    """All that a run might change, as far as a program can see it."""
    numpy = np.random.get_state()  # noqa: NPY002
    return {
        "threads": torch.get_num_threads(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "cudnn": [getattr(torch.backends.cudnn, name) for name in ("benchmark", "deterministic", "enabled", "allow_tf32")],
        "mkldnn": torch.backends.mkldnn.enabled,
        "matmul": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "precision": [backend(name).fp32_precision for name in PRECISION],
        "attention": [
            getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in ("flash", "mem_efficient", "math", "cudnn")
        ],
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "torch's random": torch.get_rng_state().tolist(),
        "numpy's random": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "python's random": random.getstate(),
        "environment": dict(os.environ),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "matplotlib": (dict.__getitem__(matplotlib.rcParams, "backend"), matplotlib.rcParams["svg.hashsalt"]),
    }


CHANGES = {
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "mkldnn": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "matmul": lambda: torch.set_float32_matmul_precision("high"),
    "precision": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "gradients": lambda: torch.set_grad_enabled(False),
    "torch's random": lambda: torch.manual_seed(1234),
    "numpy's random": lambda: np.random.seed(1234),  # noqa: NPY002
    "python's random": lambda: random.seed(1234),
    "environment": lambda: (os.environ.update(XBENCH_NEW="1", XBENCH_OLD="changed"), os.environ.pop("XBENCH_GONE")),
    "warnings": lambda: warnings.simplefilter("ignore"),
    "logging": lambda: (logging.disable(), logging.root.addHandler(logging.NullHandler()), logging.root.setLevel(1)),
    "signals": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.setenv("XBENCH_OLD", "as it was")
    monkeypatch.setenv("XBENCH_GONE", "here")


def unequal(before):
    return {name for name, value in seen().items() if value != before[name]}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_each_change_is_taken_back(name, fails):
    before = seen()
    try:
        with host.restored():
            CHANGES[name]()
            if name != "precision":  # read by its older name, torch refuses to say
                assert name in unequal(before)
            if fails:
                raise XbenchError("a run failed")
    except XbenchError:
        assert fails
    assert not unequal(before)


def test_it_may_be_nested():
    before = seen()
    with host.restored():
        torch.set_num_threads(3)
        with host.restored():
            torch.set_num_threads(4)
        assert torch.get_num_threads() == 3
    assert not unequal(before)


def test_a_host_that_names_precision_anew_keeps_it():
    """torch then refuses to read the older names."""
    code = (
        "import torch\nfrom xbench import host\n"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'\n"
        "with host.restored():\n"
        "    torch.backends.cuda.matmul.fp32_precision = 'ieee'\n"
        "    torch.backends.cudnn.conv.fp32_precision = 'tf32'\n"
        "    torch.set_num_threads(3)\n"
        "assert torch.get_num_threads() != 3\n"
        "assert torch.backends.cuda.matmul.fp32_precision == 'tf32'\n"
        "assert torch.backends.cudnn.conv.fp32_precision == 'ieee'\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- memory ----------------------------------------------------------------------------------------------------------------------

MEMORY = """
import ctypes, os
from xbench import host

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL("libc.so.6")
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def own_mapping():
    "Whether a large block is a mapping of its own, which goes back to the system when it is freed."
    before = libc.mallinfo2().hblks
    block = libc.malloc(2**27)
    after = libc.mallinfo2().hblks
    libc.free(block)
    return after > before
"""


def in_another_process(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY + code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer"
)


@glibc
def test_memory_is_given_back_afterwards():
    in_another_process(
        "assert own_mapping()\n"
        "try:\n"
        "    with host.restored():\n"
        "        host.keep_memory()\n"
        "        assert not own_mapping()\n"
        "        with host.restored():\n"
        "            host.keep_memory()\n"
        "        assert not own_mapping()\n"
        "        raise KeyboardInterrupt\n"
        "except KeyboardInterrupt:\n"
        "    pass\n"
        "assert own_mapping()\n"
        "assert libc.mallinfo2().keepcost < 2**26\n"
    )


@glibc
def test_thresholds_of_the_environment_stay():
    in_another_process("host.keep_memory()\nassert own_mapping()\n", MALLOC_MMAP_THRESHOLD_="1048576")
    in_another_process("host.keep_memory()\nassert own_mapping()\n", GLIBC_TUNABLES="glibc.malloc.mmap_threshold=1048576")


# -- runs ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rude(tmp_path_factory):
    """A plug-in whose methods change whatever they can; one of them fails then."""
    changes = "\n".join(
        [
            "    torch.set_num_threads(3)",
            "    torch.use_deterministic_algorithms(True)",
            "    torch.set_float32_matmul_precision('medium')",
            "    torch.manual_seed(3); np.random.seed(3); random.seed(3)",
            "    os.environ['XBENCH_NEW'] = '1'",
            "    warnings.simplefilter('ignore')",
            "    logging.warning('a first word')",
            "    signal.signal(signal.SIGINT, signal.SIG_IGN)",
        ]
    )
    path = tmp_path_factory.mktemp("rude") / "rude.py"
    path.write_text(
        "import logging, os, random, signal, warnings\nimport numpy as np\nimport torch\n"
        "from xbench import XbenchError, method\n\n\n"
        "@method('rude')\n"
        f"def rude(model, batch):\n    '''Noise.'''\n{changes}\n    return batch.rand(4, 4)\n\n\n"
        "@method('rude_and_broken')\n"
        f"def rude_and_broken(model, batch):\n    '''Nothing.'''\n{changes}\n    raise XbenchError('broken')\n",
        encoding="utf-8",
    )
    registry.load(str(path))
    return str(path)


def test_a_run_leaves_the_process_as_it_was(tiny_suite, tmp_path, rude):
    before = seen()
    done = pipeline.run(tiny_suite, Selection(methods=["rude", "tiny_cam"]), out=tmp_path / "run", plugins=[rude], threads=2)
    assert done.computed
    assert not unequal(before)


def test_so_does_one_that_fails(tiny_suite, tmp_path, rude):
    before = seen()
    with pytest.raises(XbenchError, match=r"^broken$"):
        pipeline.run(tiny_suite, Selection(methods=["rude_and_broken"]), out=tmp_path / "run", plugins=[rude], threads=2)
    assert not unequal(before)


def test_evaluate_leaves_the_process_as_it_was(rude):
    before = seen()
    rows = xbench.evaluate(["rude"], ["tiny_mass"], model="tiny_net", dataset="tiny_pictures", target="label", plugins=[rude])
    assert len(rows) == 6
    assert not unequal(before)


def test_listing_items_and_measuring_leave_the_process_as_it_was(tiny_suite, tmp_path):
    before = seen()
    pipeline.items(tiny_suite)
    pipeline.run(tiny_suite, out=tmp_path / "run", tuned=True, threads=3)
    assert not unequal(before)


def test_values_do_not_depend_on_what_the_host_has_set(tiny_suite, tmp_path):
    plain = pipeline.run(tiny_suite, out=tmp_path / "plain").rows
    with host.restored():
        for name in ("torch's random", "numpy's random", "python's random", "environment", "warnings", "logging"):
            CHANGES[name]()
        other = pipeline.run(tiny_suite, out=tmp_path / "other").rows
    columns = ["cache_key", "method", "item", "value"]
    assert plain[columns].equals(other[columns])
