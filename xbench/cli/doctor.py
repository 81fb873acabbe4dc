"""``xbench doctor``: is the installation whole?"""

from __future__ import annotations

import typer

LIBRARIES = ("xbench-xai", "torch", "torchvision", "timm", "captum", "numpy", "pandas", "pyarrow", "grad-cam", "foolbox")


def doctor() -> None:
    """Check the installation: versions, plug-ins that cannot be read, what is missing."""
    import importlib.metadata
    import platform

    from xbench.plugins.registry import registry

    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in LIBRARIES:
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} missing")
    failed = 0
    for line in registry.failures():
        failed += 1
        print(line)
    print("all plug-ins load" if not failed else f"{failed} plug-ins do not load")
    if failed:
        raise typer.Exit(2)
