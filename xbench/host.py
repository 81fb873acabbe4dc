"""What a run, or a library below it, changes in somebody's notebook, script or test is set back.

    with host.restored():
        torch.set_num_threads(4)
        ...

What is as it was on leaving, also where an error ends the run: threads of torch, its flags for determinism, precision and
attention, the default type, the random states of torch, NumPy and Python, environment variables, warning filters, the root logger,
signal handlers, and when glibc gives memory back.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

# Of mallopt(3). glibc moves both thresholds by itself, up to the values of USUAL, until somebody sets one.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = {M_MMAP_THRESHOLD: 2**30 - 1, M_TRIM_THRESHOLD: 2**31 - 1}
USUAL = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26}
CHOSEN = frozenset({"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"})

Setting = tuple[Callable[[], Any], Callable[[Any], object]]

_keeping: list[bool] = []  # an entry where freed memory is kept


@contextmanager
def restored() -> Iterator[None]:
    """Leave the process as it was found. May be nested."""
    with ExitStack() as stack:
        for part in (_memory, _environment, _logging, signals, _random, _torch, warnings.catch_warnings):
            stack.enter_context(part())
        yield


@contextmanager
def _memory() -> Iterator[None]:
    was = bool(_keeping)
    try:
        yield
    finally:
        if _keeping and not was:
            _keeping.clear()
            _set_thresholds(USUAL).malloc_trim(0)


def keep_memory() -> None:
    """Ask glibc to keep freed memory instead of giving it back: a backward pass at 448 px spends half of its time on page
    faults otherwise (1.9 s against 0.95 s for 8 pictures, measured). The process holds its peak, until ``restored`` is left.

    Where the environment sets glibc's own thresholds, they stay: somebody chose them.
    """
    chosen = not CHOSEN.isdisjoint(os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and not chosen:
        _set_thresholds(KEPT)
        _keeping[:] = [True]


def _set_thresholds(values: dict[int, int]) -> ctypes.CDLL:
    library = ctypes.CDLL("libc.so.6")
    for name, value in values.items():
        library.mallopt(name, value)
    return library


@contextmanager
def _environment() -> Iterator[None]:
    was = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - was.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in was.items() if os.environ.get(name) != value})


@contextmanager
def _logging() -> Iterator[None]:
    """The first message of a library that set nothing up gives the root logger a handler."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)


@contextmanager
def signals() -> Iterator[None]:
    """Set signal handlers back; only the main thread can."""
    was = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in was.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


@contextmanager
def _random() -> Iterator[None]:
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the host's, whoever draws from it
    torchs = torch.get_rng_state()
    cudas = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torchs)
        for device, state in enumerate(cudas):
            torch.cuda.set_rng_state(state, device)


@contextmanager
def _torch() -> Iterator[None]:
    """Threads, flags, default type and gradient mode."""
    was = {name: _read(read) for name, (read, _) in _settings().items()}
    try:
        yield
    finally:
        for name, (read, write) in _settings().items():
            if was[name] is not None and _read(read) != was[name]:
                write(was[name])


def _read(read: Callable[[], Any]) -> Any:
    """A setting's value; None where torch refuses to say, since somebody set the same by its older and its newer name."""
    try:
        return read()
    except RuntimeError:
        return None


def _settings() -> dict[str, Setting]:
    """Name -> how a setting of torch is read and written; what the newer names of precision say comes after the older ones."""
    import torch
    from torch.backends import cuda, cudnn, mkldnn

    def deterministic() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    found: dict[str, Setting] = {
        "threads": (torch.get_num_threads, torch.set_num_threads),
        "deterministic": (deterministic, lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1])),
        "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
        "flash attention": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
        "efficient attention": (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
        "plain attention": (cuda.math_sdp_enabled, cuda.enable_math_sdp),
        "cudnn attention": (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
        "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    }
    named: list[tuple[Any, str]] = [(cudnn, name) for name in ("benchmark", "deterministic", "enabled", "allow_tf32")]
    named += [(mkldnn, "enabled")]
    wide = (torch.backends, cudnn, mkldnn)  # before what they contain
    narrow = (cuda.matmul, *(getattr(of, name, None) for of in (cudnn, mkldnn) for name in ("matmul", "conv", "rnn")))
    named += [(of, "fp32_precision") for of in (*wide, *narrow)]
    for number, (of, name) in enumerate(named):
        if hasattr(of, "fp32_precision") or name != "fp32_precision":
            found[f"{number}: {name}"] = partial(getattr, of, name), partial(setattr, of, name)
    return found
