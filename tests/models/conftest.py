"""No test of a model reads the user's caches, or reaches the network."""

import socket

import huggingface_hub.constants
import pytest


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """-> the two empty caches: torch's and the hub's."""

    def connect(*_):
        raise AssertionError("a test reached for the network")

    torch_home, hub = tmp_path / "torch", tmp_path / "hf" / "hub"
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))  # HF_HOME is read when the library is imported
    monkeypatch.delenv("XBENCH_DOWNLOAD", raising=False)
    monkeypatch.setattr(socket.socket, "connect", connect)
    return torch_home / "hub" / "checkpoints", hub
