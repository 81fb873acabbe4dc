"""Boxes around the parts of a binary mask, and how well they fit those of the truth.

cv2 takes half a second to import, so it is only when it is used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Binary = NDArray[np.uint8]  # [H, W] of 0 and 1, not all 0
Boxes = NDArray[np.int64]  # [N, 4]: x, y, width, height
BUSY = 2000  # changes along the rows of a mask from which on labelling its components is faster than following their borders


def best_ious(boxes: Boxes, target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each box's IoU with the target box that fits it best, ``[N]``."""
    x, y, width, height = (boxes[:, [column]] for column in range(4))
    x0, y0, x1, y1 = target.T
    wide = np.minimum(x + width, x1) - np.maximum(x, x0)
    high = np.minimum(y + height, y1) - np.maximum(y, y0)
    overlap = np.maximum(wide, 0) * np.maximum(high, 0)
    best: NDArray[np.float64] = (overlap / (width * height + (x1 - x0) * (y1 - y0) - overlap)).max(axis=1)
    return best


def largest_contours(binary: Binary) -> Boxes:
    """Boxes of the contours of largest area, more than one where they tie. Those inside another are never larger."""
    import cv2

    contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    areas = [cv2.contourArea(contour) for contour in contours]
    largest = max(areas)
    return np.array([cv2.boundingRect(c) for c, area in zip(contours, areas, strict=True) if area == largest])


def all_contours(binary: Binary) -> Boxes:
    """Boxes of all borders of RETR_TREE: those of components, and those of holes, which run on the pixels around them."""
    import cv2

    if np.count_nonzero(binary[:, 1:] != binary[:, :-1]) < BUSY:
        contours, _ = cv2.findContours(binary, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        return np.array([cv2.boundingRect(contour) for contour in contours])
    components = cv2.connectedComponentsWithStats(binary, connectivity=8)[2][1:, :4]
    gaps = cv2.connectedComponentsWithStats(1 - binary, connectivity=4)[2][1:, :4]
    height, width = binary.shape
    holes = gaps[(gaps[:, :2] > 0).all(axis=1) & (gaps[:, :2] + gaps[:, 2:] < (width, height)).all(axis=1)]
    return np.concatenate([components, holes + np.array([-1, -1, 2, 2])])


def largest_components(binary: Binary) -> Boxes:
    """Boxes of the components of the most pixels, more than one where they tie."""
    import cv2

    labels = cv2.connectedComponents(binary, connectivity=8)[1]
    sizes = np.bincount(labels.ravel())[1:]
    largest = np.flatnonzero(sizes == sizes.max()) + 1
    if len(largest) == 1:  # measuring one takes less time than measuring all
        return np.array([cv2.boundingRect((labels == largest[0]).view(np.uint8))])
    return cv2.connectedComponentsWithStats(binary, connectivity=8)[2][largest, :4].astype(np.int64)
