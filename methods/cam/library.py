"""The grad-cam library's classes, unmodified, under ``gradcam/<ClassName>``: maps as it returns them, at input size in [0, 1]."""

from __future__ import annotations

import contextlib
import io

import torch
from torch import Tensor

from xbench.plugin import Batch, ModelView, NotApplicable, XbenchError, method

# The classes that are built from (model, target_layers) alone and are deterministic. The library's RandomCAM draws from
# numpy's unseeded global state, and the others need a detector or a second class.
CLASSES = [
    "AblationCAM",
    "EigenCAM",
    "EigenGradCAM",
    "FEM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "KPCA_CAM",
    "LayerCAM",
    "ScoreCAM",
    "ShapleyCAM",
    "XGradCAM",
]


@method("gradcam/<ClassName>", needs={"feature_maps", "gradients"}, cite="gildenblat2021gradcam", names=lambda: CLASSES)
def gradcam(model: ModelView, batch: Batch, name: str) -> Tensor:
    """A class of the grad-cam library on the model's feature layer. Unsigned, min-max scaled per map.

    Raises:
        XbenchError: the grad-cam library is not installed.
        NotApplicable: AblationCAM where the layer gives tokens, whose channels the library's own layer does not ablate.
    """
    try:
        # 6 s to import: only when one of its classes runs.
        import pytorch_grad_cam as library
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise XbenchError(f"gradcam/{name} needs the grad-cam library; pip install 'xbench-xai[gradcam]'") from error
    layout = model.model.layout
    assert layout is not None  # it has feature maps
    if name == "AblationCAM" and layout.kind != "nchw":
        raise NotApplicable(f"gradcam/{name} ablates channels of [B, K, h, w] only; ablation_cam knows tokens too")
    # FullGrad looks at all layers with a bias, whatever their layout.
    reshape = None if layout.kind == "nchw" or name == "FullGrad" else layout.to_grid
    quiet = io.StringIO()  # some classes draw progress bars
    with torch.enable_grad(), contextlib.redirect_stderr(quiet):
        with getattr(library, name)(model.network, [model.model.layer], reshape_transform=reshape) as cam:
            maps = cam(batch.images.clone().requires_grad_(), [ClassifierOutputTarget(int(t)) for t in batch.targets])
    return torch.from_numpy(maps)
