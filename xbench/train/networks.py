"""Networks from the tables of recipes and cards: timm's classifiers, and CLIPs of open_clip's own class."""

from __future__ import annotations

import functools
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from xbench.errors import XbenchError, did_you_mean
from xbench.network.model import Model
from xbench.network.zero_shot import Tokenizer
from xbench.plugins.registry import registry
from xbench.train import initial
from xbench.train.recipes import ClipNetwork, TimmNetwork

FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def build(table: TimmNetwork | ClipNetwork, classes: int, size: int) -> nn.Module:
    """A network with random weights, drawn from torch's global generator.

    classes: outputs of a classifier; a CLIP has none. size: of its input, which a CLIP is built for.

    Raises:
        XbenchError: the library knows no such network, or refuses an argument.
    """
    if isinstance(table, ClipNetwork):
        return _clip(table, size)
    import timm

    if table.timm not in timm.list_models():
        raise XbenchError(f"timm has no network {table.timm!r}{did_you_mean(table.timm, timm.list_models())}")
    try:
        return timm.create_model(table.timm, pretrained=False, num_classes=classes, **table.arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise XbenchError(f"timm does not build {table.timm} with {table.arguments}: {error}; mend [network]") from error


def begun(table: TimmNetwork | ClipNetwork, classes: int, size: int) -> tuple[nn.Module, str]:
    """The same after it has started from its table's ``init``, and what that was, in words; "" for nothing.

    Raises:
        XbenchError: as ``build`` and ``start_from``.
    """
    built = build(table, classes, size)
    return built, start_from(built, table.init) if table.init else ""


def table(known: Mapping[str, Any]) -> TimmNetwork | ClipNetwork:
    """The table [network] of a card, of those that ``build`` knows."""
    schema: type[TimmNetwork | ClipNetwork] = ClipNetwork if ClipNetwork.told_by in known else TimmNetwork
    return schema.model_validate(known)


def tokenizer(table: ClipNetwork) -> Tokenizer:
    """CLIP's own tokenizer, as long as the text tower reads: sentences -> int64 ``[n, context_length]``."""
    known = _open_clip()
    found: Tokenizer = known.SimpleTokenizer(context_length=known.model.CLIPTextCfg(**table.text).context_length)
    return found


def text_encoder(clip: nn.Module, tokenize: Tokenizer) -> Callable[[Sequence[str]], Tensor]:
    """Sentences -> embeddings ``[n, D]``, on the device where the network is then."""
    encode = cast(Any, clip).encode_text
    return lambda sentences: encode(tokenize(list(sentences)).to(next(clip.parameters()).device))


def start_from(network: nn.Module, source: str) -> str:
    """Load what fits: every tensor of the same name and shape. -> what was loaded, in words.

    source: a checkpoint file; a model that xbench knows, such as ``scenes/vit``; or ``mimetic``, see initial.py. A vision
    transformer of timm fits the image tower of a CLIP.

    Raises:
        XbenchError: the file cannot be read, holds more than tensors, the model is unknown, or nothing fits.
    """
    if source == "mimetic":
        initial.mimetic(network)
        return "mimetic initialisation"
    given, name = (
        (_read(Path(source).expanduser()), Path(source).name) if Path(source).suffix in FILES else (_state(source), source)
    )
    wanted = network.state_dict()
    if "visual.class_embedding" in wanted and "cls_token" in given:
        given = _as_tower(given)
    fitting = {k: v for k, v in given.items() if isinstance(v, Tensor) and k in wanted and v.shape == wanted[k].shape}
    if not fitting:
        raise XbenchError(
            f"{source} does not fit: no tensor has the name and shape of one of the network's; mend init in [network]"
        )
    network.load_state_dict(fitting, strict=False)
    return f"{len(fitting)} of {len(wanted)} tensors from {name}"


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise XbenchError(f"checkpoint {path} is not there; mend init in [network]")
    try:
        given: Any = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        first = str(error).splitlines()[0]
        raise XbenchError(f"checkpoint {path} is damaged or holds more than tensors ({first}); save a state dict") from error
    return cast(Mapping[str, Any], given.get("state_dict", given)) if isinstance(given, Mapping) else {}


def _state(spec: str) -> Mapping[str, Any]:
    model: Model = registry.bind("model", spec)()
    return model.network.state_dict()


TOWER = (  # timm's names -> open_clip's
    (r"^cls_token$", "class_embedding"),
    (r"^pos_embed$", "positional_embedding"),
    (r"^patch_embed\.(backbone|proj)\.", r"conv1.\1."),
    (r"^blocks\.(\d+)\.norm", r"transformer.resblocks.\1.ln_"),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"^norm\.", "ln_post."),
)


def _as_tower(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of timm's vision transformer by the names that they have in the image tower of open_clip's CLIP."""
    found = {}
    for name, tensor in given.items():
        for old, new in TOWER:
            name = re.sub(old, new, name)
        found[f"visual.{name}"] = tensor.reshape(tensor.shape[-1:] if name == "class_embedding" else tensor.shape)
    found["visual.positional_embedding"] = found["visual.positional_embedding"][0]
    if not any(name.startswith("visual.conv1.backbone") for name in found):  # no stem: its convolution has no bias, so positions do
        found["visual.conv1.weight"] = found.pop("visual.conv1.proj.weight")
        positions = found["visual.positional_embedding"].clone()
        positions[1:] += found.pop("visual.conv1.proj.bias")
        found["visual.positional_embedding"] = positions
    return found


def _clip(table: ClipNetwork, size: int) -> nn.Module:
    known = _open_clip()
    for part, configuration in (("vision", known.model.CLIPVisionCfg), ("text", known.model.CLIPTextCfg)):
        for key in getattr(table, part):
            if key not in configuration.__dataclass_fields__:
                near = did_you_mean(key, configuration.__dataclass_fields__)
                raise XbenchError(f"open_clip's {configuration.__name__} has no {key!r}{near}; mend [network.{part}]")
    vision = known.model.CLIPVisionCfg(**{"image_size": size, **table.vision})
    text = known.model.CLIPTextCfg(**table.text)
    try:
        clip: Any = known.model.CLIP(table.embed_dim, vision, text, quick_gelu=table.quick_gelu)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise XbenchError(f"open_clip does not build that CLIP: {error}; mend [network]") from error
    if table.stem:
        patches = getattr(clip.visual, "conv1", None)
        if not isinstance(patches, nn.Conv2d) or patches.stride[0] != vision.patch_size or vision.patch_size % 4:
            raise XbenchError(
                "a stem needs a vision transformer with patches of 4, 8, ... pixels; mend patch_size, or set stem to 0"
            )
        clip.visual.conv1 = _stem(table.stem, patches.out_channels, vision.patch_size // 4)
    return cast(nn.Module, clip)


def _stem(channels: int, width: int, patch: int) -> nn.Module:
    """What timm's hybrid transformers begin with: a convolution of stride 4 by its pooling, then patches of its places."""
    from timm.layers.norm_act import GroupNormAct
    from timm.layers.std_conv import StdConv2dSame
    from timm.models.resnetv2 import create_resnetv2_stem

    norm = functools.partial(GroupNormAct, num_groups=min(32, channels))
    backbone = create_resnetv2_stem(3, channels, "same", False, StdConv2dSame, norm)
    return nn.Sequential(OrderedDict(backbone=backbone, proj=nn.Conv2d(channels, width, patch, patch)))


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise XbenchError(f"CLIP needs open_clip ({error}); pip install 'xbench-xai[clip]'") from error
    return open_clip
