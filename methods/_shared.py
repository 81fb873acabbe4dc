"""What several families of methods share."""

from __future__ import annotations

from xbench.plugin import Batch, XbenchError


def require(holds: bool, rule: str) -> None:
    """Raises XbenchError with the rule, such as ``method rise: n must be positive, not 0``, where it does not hold."""
    if not holds:
        raise XbenchError(f"method {rule}")


def noisy(batch: Batch, sigma: float, draw: int) -> Batch:
    """The draw-th noisy copy of a batch: Gaussian noise per item, sigma in shares of the input's own range (max - min)."""
    images, drawn = batch.images, batch.seeded(f"draw {draw}")
    span = images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True)
    return drawn.with_images(images + sigma * span * drawn.seeded("noise").randn(*images.shape[1:]))
