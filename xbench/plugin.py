"""The door for authors of plug-ins: all that a method, metric, dataset, model or trainer may import of xbench.

Everything else in ``xbench`` is the core's own and moves without notice. Names of modules stand for what is in them.
"""

from xbench.data import geometry, images
from xbench.data.classes import ClassList, imagenet_1k
from xbench.data.samples import Batch, Box, Dataset, Entry, Item, Sample, Score, Truth, generator
from xbench.data.wordnet import Synset, WordNet, compact, full
from xbench.errors import BrokenSample, NotApplicable, XbenchError, did_you_mean
from xbench.evaluate.variations import Answer, Moved, Noisy, Randomised, Retargeted, Same, Variation
from xbench.maps.perturbation import (
    Along,
    Blends,
    Curve,
    Hidden,
    Pictures,
    Request,
    Weighted,
    check_output,
    check_substrate,
    substrate,
)
from xbench.maps.saliency import Attribution, Ranking, SaliencyMap, min_max, resize
from xbench.network import towers
from xbench.network.attention import read_off, recorded
from xbench.network.model import Model, ModelView, Preprocessing, weights_digest
from xbench.network.towers import Block, Tower
from xbench.network.zero_shot import Encoder, ZeroShot, classifier, counted, fill, text_embeddings
from xbench.plan.keys import digest, file_digest
from xbench.plugins.declarations import Method
from xbench.plugins.registry import dataset, method, metric, model, registry, trainer
from xbench.plugins.specs import Spec
from xbench.train import cards, networks, weights
from xbench.train.cards import Card
from xbench.train.contract import Opened, Step, Trainer
from xbench.train.examples import Examples, Splits, worker_count
from xbench.train.objectives import Captions, contrastive_loss, prompt_sets, soft_targets
from xbench.train.recipes import ClipNetwork, Input, Network, Recipe, Table, TimmNetwork

__all__ = [
    "Along",
    "Answer",
    "Attribution",
    "Batch",
    "Blends",
    "Block",
    "Box",
    "BrokenSample",
    "Captions",
    "Card",
    "ClassList",
    "ClipNetwork",
    "Curve",
    "Dataset",
    "Encoder",
    "Entry",
    "Examples",
    "Hidden",
    "Input",
    "Item",
    "Method",
    "Model",
    "ModelView",
    "Moved",
    "Network",
    "Noisy",
    "NotApplicable",
    "Opened",
    "Pictures",
    "Preprocessing",
    "Randomised",
    "Ranking",
    "Recipe",
    "Request",
    "Retargeted",
    "SaliencyMap",
    "Same",
    "Sample",
    "Score",
    "Spec",
    "Splits",
    "Step",
    "Synset",
    "Table",
    "TimmNetwork",
    "Tower",
    "Trainer",
    "Truth",
    "Variation",
    "Weighted",
    "WordNet",
    "XbenchError",
    "ZeroShot",
    "cards",
    "check_output",
    "check_substrate",
    "classifier",
    "compact",
    "contrastive_loss",
    "counted",
    "dataset",
    "did_you_mean",
    "digest",
    "file_digest",
    "fill",
    "full",
    "generator",
    "geometry",
    "imagenet_1k",
    "images",
    "method",
    "metric",
    "min_max",
    "model",
    "networks",
    "prompt_sets",
    "read_off",
    "recorded",
    "registry",
    "resize",
    "soft_targets",
    "substrate",
    "text_embeddings",
    "towers",
    "trainer",
    "weights",
    "weights_digest",
    "worker_count",
]
