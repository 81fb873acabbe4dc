"""A classifier that learns the labels of pictures."""

from __future__ import annotations

from typing import Any, cast

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from xbench.plugin import Recipe, Splits, Step, Table, TimmNetwork, Trainer, XbenchError, soft_targets, trainer


class Labels(Table):
    """How labels are learned.

    token_labels: weight of a second loss for vision transformers of timm, by which the classifier must also know each patch that an
    object covers (Jiang et al. 2021, here with exact masks); 0 for none.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    token_labels: float = Field(default=0.0, ge=0)


@trainer("classify", network=TimmNetwork, table=Labels)
class Classify(Trainer):
    """Labels of pictures, by soft-target cross-entropy: a picture with three classes in it has a third of each.

    With token labels the classifier must know each patch too, as far as an object covers it.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.how: Labels = recipe.table
        self.masks = self.how.token_labels > 0

    def begin(self, splits: Splits) -> None:
        super().begin(splits)
        self.targets = soft_targets(splits.train.present)

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        pictures = step.pictures
        targets = self.targets[step.places.cpu()].to(pictures.device)
        if not self.how.token_labels:
            return functional.cross_entropy(module(pictures).float(), targets, label_smoothing=self.how.label_smoothing)
        transformer = cast(Any, module)
        if not all(hasattr(module, name) for name in ("forward_features", "patch_embed", "num_prefix_tokens", "fc_norm", "head")):
            raise XbenchError(f"recipe {self.recipe.name}: token_labels needs a vision transformer of timm; set it to 0")
        tokens = transformer.forward_features(pictures)
        logits = transformer.forward_head(tokens).float()
        of_tokens = transformer.head(transformer.fc_norm(tokens[:, transformer.num_prefix_tokens :])).float()
        whole = functional.cross_entropy(logits, targets, label_smoothing=self.how.label_smoothing)
        shares = cover(step.owners, transformer.patch_embed.grid_size, self.targets.shape[1])
        return whole + self.how.token_labels * token_loss(of_tokens, shares)


def cover(owners: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """uint8 ``[B, 1, h, w]`` of class + 1, or 0 -> the share of each cell of a grid that each class covers, float32
    ``[B, N, classes]``."""
    one_hot = functional.one_hot(owners[:, 0].long(), classes + 1)[..., 1:].permute(0, 3, 1, 2).float()
    return functional.adaptive_avg_pool2d(one_hot, grid).flatten(2).transpose(1, 2)


def token_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of tokens, each as far as it is covered, over all that is. logits, shares: ``[B, N, classes]``."""
    return -(shares * logits.log_softmax(dim=-1)).sum() / shares.sum().clamp(min=1)
