"""How fast pictures of the generated world are drawn, on one core, beside reading the same pictures from PNG files."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torchvision.io import write_png

from xbench.data import images
from xbench.plugins.registry import registry

COUNT = 400
GOAL = 500  # pictures a second and core


def main() -> None:
    torch.set_num_threads(1)
    for spec in ("scenes", "scenes(most=1)", "scenes_spurious", "scenes_parts"):
        data = registry.dataset(spec)()
        ids = [entry.id for entry in data.entries()[:COUNT]]
        data.load(ids[0])
        start = time.process_time()
        samples = [data.load(id) for id in ids]
        drawing = time.process_time() - start
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, f"{sample.id}.png") for sample in samples]
            for file, sample in zip(files, samples, strict=True):
                write_png(sample.image, str(file))
            start = time.process_time()
            for file in files:
                images.read(file)
            reading = time.process_time() - start
        print(
            f"{spec:20} {COUNT / drawing:6.0f} pictures a second with masks and captions (goal {GOAL}), "
            f"{reading / drawing:.2f} times as fast as reading them from PNG files without"
        )


if __name__ == "__main__":
    main()
