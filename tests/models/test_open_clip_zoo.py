"""open_clip's networks through the registry. Random weights, for tests only: no number of theirs is a result."""

import copy
import json
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from xbench.data.classes import ClassList, imagenet_1k
from xbench.data.samples import Batch, Item
from xbench.errors import XbenchError
from xbench.network.model import ModelView
from xbench.network.zero_shot import classifier
from xbench.plugins.registry import registry

open_clip = pytest.importorskip("open_clip")
from open_clip import factory, pretrained  # noqa: E402
from xbench.models import _clip_weights, open_clip_zoo  # noqa: E402

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
CONFIGS = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
        "text_cfg": TEXT,
    },
    "tiny-timm": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
    "tiny-biased": {"embed_dim": 24, "init_logit_bias": -10, "custom_text": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-coca": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 17, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "tiny-hf": {"embed_dim": 24, "custom_text": True, "vision_cfg": VIT, "text_cfg": {**TEXT, "hf_tokenizer_name": "my/words"}},
    "tiny-tower": {
        "embed_dim": 24,
        "vision_cfg": VIT,
        "text_cfg": {"hf_tokenizer_name": "my/words", "hf_model_name": "my/tower", "hf_proj_type": "linear"},
    },
}
URL = "https://example.org/releases/tiny-0123abcd.pt"


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """Small architectures beside open_clip's own, one with weights by name, and an empty home."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    for name, config in CONFIGS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    tags = {
        "mine": pretrained._pcfg(url=URL, hf_hub="me/tiny/", quick_gelu=True),
        "squashed": pretrained._slpcfg(hf_hub="me/tiny/weights.bin"),
        "elsewhere": pretrained._pcfg(url=URL),
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-vit", tags)
    open_clip_zoo.names.cache_clear()
    yield
    open_clip_zoo.names.cache_clear()


def clip(name="tiny-vit", seed=0, **more):
    """By open_clip's own factory."""
    torch.manual_seed(seed)
    net = open_clip.create_model(name, pretrained=None, **more).eval()
    if isinstance(net, open_clip.CoCa):  # which leaves these as the memory was: NaN at times
        torch.nn.init.normal_(net.text_decoder.text_projection)
    return net


def save(net, path, **metadata):
    state = {k: v.contiguous() for k, v in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=metadata) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def cache(hub, net, repository="me/tiny", name="open_clip_model.safetensors"):
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("0123abc")
    return save(net, folder / "snapshots" / "0123abc" / name)


def load(spec):
    return registry.bind("model", spec)()


def pictures(side=32, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def logits(net, prompts, images, tokenizer=None):
    """The formula, with open_clip's own encoders."""
    tokenizer = tokenizer or open_clip.SimpleTokenizer(context_length=24)
    with torch.no_grad():
        texts = []
        for sentences in prompts:
            units = [functional.normalize(net.encode_text(tokenizer([s])), dim=-1)[0] for s in sentences]
            mean = sum(units) / len(units)
            texts.append(mean / mean.norm())
        features = net.encode_image(images)
        cosines = (features / features.norm(dim=-1, keepdim=True)) @ torch.stack(texts).T
        bias = 0 if net.logit_bias is None else net.logit_bias
        return net.logit_scale.exp() * cosines + bias


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "my classes.txt"
    path.write_text("ant\nbee, honey\ncat\n")
    return path


PROMPTS = (("a photo of a ant.",), ("a photo of a bee, honey.",), ("a photo of a cat.",))
LAYERS = {
    "tiny-vit": (32, "tokens", (4, 4)),
    "tiny-biased": (32, "tokens", (4, 4)),
    "tiny-coca": (32, "tokens", (4, 4)),
    "tiny-resnet": (64, "nchw", (2, 2)),
    "tiny-timm": (64, "nchw", (2, 2)),
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("name", LAYERS)
def test_round_trip_of_a_checkpoint(tmp_path, classes, name, suffix):
    net, (side, kind, grid) = clip(name), LAYERS[name]
    path = save(net, tmp_path / f"mine.{suffix}")
    model = load(f'open_clip/{name}@{path}(classes="{classes}")')
    wanted = logits(net, PROMPTS, pictures(side))
    with torch.no_grad():
        assert torch.allclose(model(pictures(side)), wanted, atol=1e-4)
        assert torch.allclose(model(pictures(side)[:1]), wanted[:1], atol=1e-4)
    assert model.id == f"open_clip/{name}"
    assert model.classes.names == ("ant", "bee, honey", "cat")
    assert model.prompts == PROMPTS
    assert model.files == (path, classes)
    assert model.card == (
        f"open_clip {open_clip.__version__}: {name}; weights: checkpoint {path}; licence of the weights: not known. "
        "Zero-shot: 3 prompts for 3 classes (a photo of a ant.)."
    )
    assert model.layout.kind == kind
    assert {"text", "feature_maps", "gradients"} <= model.capabilities
    targets = torch.tensor([0, 2])
    batch = Batch(pictures(side), targets, tuple(Item(str(i), str(i), int(t), str(i)) for i, t in enumerate(targets)))
    activations, gradients = ModelView(model).feature_gradients(batch)
    assert activations.shape[2:] == grid
    assert (gradients.flatten(1).abs().amax(dim=1) > 0).all()


def test_sentences_are_embedded_as_open_clip_does(tmp_path, classes):
    net = clip()
    model = load(f'open_clip/tiny-vit@{save(net, tmp_path / "mine.pt")}(classes="{classes}")')
    sentences = [f"number {i}" for i in range(70)]
    with torch.no_grad():
        wanted = net.encode_text(open_clip.SimpleTokenizer(context_length=24)(sentences), normalize=True)
    assert torch.allclose(model.encode_text(sentences), wanted, atol=1e-6)


@pytest.mark.parametrize("text", [{}, {"no_causal_mask": True}, {"pool_type": "last"}], ids=["usual", "no mask", "last"])
def test_the_text_tower_reads_no_more_than_it_must(monkeypatch, text):
    monkeypatch.setitem(CONFIGS["tiny-vit"], "text_cfg", TEXT | text)
    torch.manual_seed(0)
    net, tokenizer = open_clip.CLIP(**CONFIGS["tiny-vit"]).eval(), open_clip.SimpleTokenizer(context_length=24)
    state, seen = copy.deepcopy(net.state_dict()), []
    net.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    for sentences in (["a cat"], ["a cat", "one two three", ""], ["word " * 99, "a cat"]):
        with torch.no_grad():
            whole = net.encode_text(tokenizer(sentences))
            assert torch.allclose(open_clip_zoo._encode(net, tokenizer, sentences), whole, atol=1e-5)
    assert seen == ([24, 4, 24, 5, 24, 24] if not text else [24] * 6)
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert net.encode_text(tokenizer(["a cat"])).shape == (1, 24)


def test_templates_of_a_file_are_averaged(tmp_path, classes):
    net, path = clip(), tmp_path / "templates.txt"
    path.write_text("a photo of a {}.\n\na drawing, of the {}\n")
    file = save(net, tmp_path / "mine.pt")
    model = load(f'open_clip/tiny-vit@{file}(classes="{classes}", template={path})')
    prompts = tuple((a[0], f"a drawing, of the {c}") for a, c in zip(PROMPTS, ("ant", "bee, honey", "cat"), strict=True))
    assert model.prompts == prompts
    assert model.files == (file, classes, path)
    assert model.card.endswith("Zero-shot: 6 prompts for 3 classes (a photo of a ant. | a drawing, of the ant).")
    with torch.no_grad():
        assert torch.allclose(model(pictures()), logits(net, prompts, pictures()), atol=1e-4)
    one = load(f'open_clip/tiny-vit@{file}(classes="{classes}", template="a drawing, of the {{}}")')
    assert one.prompts == tuple(p[1:] for p in prompts)
    assert len({model.digest, one.digest, load(f'open_clip/tiny-vit@{file}(classes="{classes}")').digest}) == 3


def test_classes_are_imagenets_the_files_or_the_checkpoints(tmp_path):
    net = clip()
    model = load(f"open_clip/tiny-vit@{save(net, tmp_path / 'mine.safetensors')}")
    assert model.classes is imagenet_1k()
    cranes = [i for i, name in enumerate(model.classes.names) if name == "crane"]
    assert len(cranes) == 2
    assert len({model.prompts[i] for i in cranes}) == 2  # open_clip's names tell them apart
    assert model.card.endswith("Classes with the prompts of another, whose logits tie: 2.")
    save(net, tmp_path / "mine.safetensors", classes='["x", "y"]')
    assert load(f"open_clip/tiny-vit@{tmp_path}/mine.safetensors").classes.names == ("x", "y")
    (tmp_path / "ids.json").write_text('["n01440764", "n02123045 my tabby"]')
    listed = load(f"open_clip/tiny-vit@{tmp_path}/mine.safetensors(classes={tmp_path}/ids.json)")
    assert listed.classes.synsets == ("n01440764", "n02123045")
    assert listed.prompts == (("a photo of a tench.",), ("a photo of a my tabby.",))


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_pretrained_weights_from_the_hubs_cache(offline, classes, file):
    net = clip(quick_gelu=True)
    path = cache(offline[1], net, name=file)
    model = load(f'open_clip/tiny-vit/mine(classes="{classes}")')
    wanted = logits(net, PROMPTS, pictures())
    with torch.no_grad():
        assert torch.allclose(model(pictures()), wanted, atol=1e-4)
    assert not torch.allclose(wanted, logits(clip(), PROMPTS, pictures()), atol=1e-2)  # the activation is the tag's, and matters
    assert model.files[0] == path
    assert model.card.startswith(
        f"open_clip {open_clip.__version__}: tiny-vit (configuration mine); weights: me/tiny, file {file}; "
        "licence of the weights: see https://huggingface.co/me/tiny. Zero-shot: "
    )


def test_a_checkpoint_behind_a_tag_follows_its_configuration(tmp_path, classes):
    net = clip(quick_gelu=True)
    path = save(net, tmp_path / "mine.pt")
    own, other = (load(f'open_clip/tiny-vit{tag}@{path}(classes="{classes}")') for tag in ("/mine", "/squashed"))
    with torch.no_grad():
        assert torch.allclose(own(pictures()), logits(net, PROMPTS, pictures()), atol=1e-4)
        assert not torch.allclose(own(pictures()), other(pictures()), atol=1e-2)
    assert own.preprocessing.mean == pytest.approx([255 * v for v in open_clip.OPENAI_DATASET_MEAN])
    assert own.preprocessing.std == pytest.approx([255 * v for v in open_clip.OPENAI_DATASET_STD])
    assert (own.preprocessing.size, own.preprocessing.share, own.preprocessing.interpolation) == ((32, 32), 1.0, "bicubic")
    assert other.preprocessing.mean == other.preprocessing.std == (127.5,) * 3
    assert "the view `squash` is the same" in other.card
    assert "the view" not in own.card


def test_the_quick_gelu_of_every_tag():
    """OpenAI's ViT-B-32 has it, LAION-2B's has not, whatever the architecture's own file says."""

    def activation(name, tag):
        with torch.device("meta"):
            known = open_clip.get_pretrained_cfg(name, tag)
            net = open_clip_zoo._network("", name, known)
        return {type(m).__name__ for m in net.modules() if "GELU" in type(m).__name__}

    assert activation("ViT-B-32", "openai") == {"QuickGELU"}
    assert activation("ViT-B-32", "laion2b_s34b_b79k") == {"GELU"}
    assert activation("ViT-B-32-quickgelu", "openai") == {"QuickGELU"}


def test_pretrained_weights_are_never_fetched():
    with pytest.raises(XbenchError) as caught:
        load("open_clip/ViT-B-32/openai")
    assert str(caught.value) == (
        "model open_clip/ViT-B-32/openai needs open_clip_model.safetensors of "
        "https://huggingface.co/timm/vit_base_patch32_clip_224.openai, which is not on this machine; get it with "
        "`hf download timm/vit_base_patch32_clip_224.openai open_clip_model.safetensors`, or name it: "
        "open_clip/ViT-B-32/openai@open_clip_model.safetensors, or set XBENCH_DOWNLOAD=1 to allow the download"
    )
    with pytest.raises(XbenchError, match=r"needs weights\.bin of https://huggingface\.co/me/tiny, which is not on this machine"):
        load("open_clip/tiny-vit/squashed")
    with pytest.raises(
        XbenchError, match=r"needs tiny-0123abcd\.pt of https://example\.org/releases, which is not on this machine"
    ):
        load("open_clip/tiny-vit/elsewhere")


def test_a_download_that_is_allowed(monkeypatch, tmp_path, classes):
    net, asked = clip(), []
    save(net, tmp_path / "weights.bin")

    def download(repository, file):
        asked.append((repository, file))
        if file.endswith(".safetensors"):
            raise absent
        return str(tmp_path / file)

    absent = huggingface_hub.errors.RemoteEntryNotFoundError.__new__(huggingface_hub.errors.RemoteEntryNotFoundError)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setenv("XBENCH_DOWNLOAD", "1")
    model = load(f'open_clip/tiny-vit/squashed(classes="{classes}")')
    with torch.no_grad():
        assert torch.allclose(model(pictures()), logits(net, PROMPTS, pictures()), atol=1e-4)
    assert asked == [("me/tiny", "weights.safetensors"), ("me/tiny", "weights.bin")]
    monkeypatch.setattr(
        open_clip_zoo.open_clip.pretrained, "_PRETRAINED", {"tiny-vit": {"safe": {"hf_hub": "me/tiny/x.safetensors"}}}
    )
    open_clip_zoo.names.cache_clear()
    with pytest.raises(XbenchError, match=r"me/tiny has none of x\.safetensors.*; name a checkpoint: open_clip/tiny-vit/safe@FILE"):
        load("open_clip/tiny-vit/safe")


def test_a_download_that_fails(monkeypatch):
    def download(*_):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setenv("XBENCH_DOWNLOAD", "1")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(XbenchError, match=r"the download of open_clip_model\.safetensors of me/tiny failed: no route to host$"):
        load("open_clip/tiny-vit/mine")


def test_files_that_other_libraries_of_clip_have_placed(monkeypatch, tmp_path, classes):
    net, path = clip(quick_gelu=True), tmp_path / "home" / ".cache" / "clip" / "tiny-0123abcd.pt"
    save(net, path)
    with pytest.raises(XbenchError, match=r"tiny-0123abcd\.pt is not the file of https://example\.org/.*\(sha256 differs\)"):
        load("open_clip/tiny-vit/mine")
    monkeypatch.setattr(_clip_weights, "file_digest", lambda path: "0123abcd" + "0" * 56)
    model = load(f'open_clip/tiny-vit/mine(classes="{classes}")')
    with torch.no_grad():
        assert torch.allclose(model(pictures()), logits(net, PROMPTS, pictures()), atol=1e-4)


def test_torchscript_is_refused(tmp_path):
    """OpenAI's own files are of this kind."""
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(XbenchError) as caught:
        load(f"open_clip/ViT-B-32/openai@{path}")
    assert str(caught.value) == (
        f"checkpoint {path} is a TorchScript archive, which holds code: refused; get the same weights with "
        "`hf download timm/vit_base_patch32_clip_224.openai open_clip_model.safetensors`"
    )
    with pytest.raises(XbenchError, match="is a TorchScript archive, which holds code: refused; name a file of tensors"):
        load(f"open_clip/ViT-B-32@{path}")


def test_files_of_older_versions(tmp_path, classes):
    """A text tower without its prefix, scales as lists of one, half precision, and OpenAI's numbers among the tensors."""
    net = clip("tiny-biased").half().float()
    old = {k.removeprefix("text."): v.half() for k, v in net.state_dict().items() if k != "text.attn_mask"}
    old |= {"logit_scale": old["logit_scale"].reshape(1), "logit_bias": old["logit_bias"].reshape(1)}
    old |= {"vocab_size": torch.tensor(49408), "text.transformer.embeddings.position_ids": torch.arange(3)}
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in old.items()}}, tmp_path / "old.pt")
    model = load(f'open_clip/tiny-biased@{tmp_path}/old.pt(classes="{classes}")')
    with torch.no_grad():
        assert torch.allclose(model(pictures()), logits(net, PROMPTS, pictures()), atol=1e-4)


def test_what_cannot_be_loaded(tmp_path, classes):
    path = save(clip(), tmp_path / "mine.pt")
    (tmp_path / "bad.json").write_text("[1]")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "templates.txt").write_text("a {}\nno place\n")
    for spec, why in {
        "open_clip/ViT-B-33@x.pt": "unknown model 'open_clip/ViT-B-33'; did you mean 'open_clip/ViT-B-32",
        "open_clip/ViT-B-32/opanai": "unknown model 'open_clip/ViT-B-32/opanai'; did you mean 'open_clip/ViT-B-32/openai'",
        "open_clip/tiny-vit": "is an architecture without weights; name one of its weights, open_clip/tiny-vit/<mine, squashed,",
        "open_clip/tiny-resnet": "is an architecture without weights; name a checkpoint: open_clip/tiny-resnet@FILE",
        f"open_clip/tiny-vit@{tmp_path}/gone.pt": r"gone\.pt is not there; check the path behind the @",
        f"open_clip/tiny-resnet@{path}": r"mine\.pt does not fit open_clip/tiny-resnet: \d+ missing \(visual\.",
        f"open_clip/tiny-vit@{path}(classes={tmp_path}/gone.txt)": r"cannot read the classes in .*gone\.txt",
        f"open_clip/tiny-vit@{path}(classes={tmp_path}/bad.json)": r"bad\.json must be a JSON list of class names",
        f"open_clip/tiny-vit@{path}(classes={tmp_path}/empty.txt)": r"empty\.txt lists no classes; write one class a line",
        f'open_clip/tiny-vit@{path}(template="a photo")': r"template 'a photo' has no \{\} and is no file; write it like",
        f"open_clip/tiny-vit@{path}(template={tmp_path}/templates.txt)": r"templates in .*templates\.txt: template 'no place' has",
        f"open_clip/tiny-vit@{path}(template={tmp_path}/empty.txt)": r"templates in .*empty\.txt: there is no template",
        f'open_clip/tiny-vit@{path}(classes="{classes}", layer=visual.nothing)': "has no layer 'visual.nothing'",
    }.items():
        with pytest.raises(XbenchError, match=why) as caught:
            load(spec)
        assert "\n" not in str(caught.value)


def test_tokenizers_of_transformers_come_from_the_cache(offline, tmp_path, classes, monkeypatch):
    net = clip("tiny-hf")
    path = save(net, tmp_path / "mine.pt")
    spec = f'open_clip/tiny-hf@{path}(classes="{classes}")'
    with pytest.raises(XbenchError) as caught:
        load(spec)
    assert str(caught.value) == (
        "model open_clip/tiny-hf needs the tokenizer of https://huggingface.co/my/words, which is not on this machine; "
        "get it with `hf download my/words`, or set XBENCH_DOWNLOAD=1 to allow the download"
    )
    cache(offline[1], net, "my/words", "tokenizer.json")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(XbenchError, match=r"cannot open the tokenizer my/words: .*it needs `pip install transformers`"):
        load(spec)

    class Words:
        def __init__(self, name, local_files_only=False, cache_dir=None):
            assert name == "my/words"
            assert local_files_only

        from_pretrained = classmethod(lambda cls, name, **kwargs: cls(name, **kwargs))

        def __call__(self, texts, max_length, **_):
            ids = [[1 + len(word) for word in text.split()] for text in texts]
            return SimpleNamespace(input_ids=torch.tensor([row + [0] * (max_length - len(row)) for row in ids]))

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=Words))
    model = load(spec)
    wanted = logits(net, PROMPTS, pictures(), lambda texts: Words("my/words", True)(texts, 24).input_ids)
    with torch.no_grad():
        assert torch.allclose(model(pictures()), wanted, atol=1e-4)


def test_text_towers_of_transformers_need_their_configuration(offline, tmp_path, monkeypatch):
    save(clip(), tmp_path / "mine.pt")
    cache(offline[1], clip(), "my/words", "tokenizer.json")
    fake = SimpleNamespace(from_pretrained=lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=fake))
    with pytest.raises(XbenchError, match=r"needs the text tower's configuration of https://huggingface\.co/my/tower, which"):
        load(f"open_clip/tiny-tower@{tmp_path}/mine.pt")


@pytest.mark.parametrize(("name", "width"), [("ViT-B-32", 512), ("RN50", 1024)])
def test_the_feature_map_of_networks_at_full_size(name, width):
    """CAMs are not zero; on the output of a ViT's last block they are, for its patches are thrown away."""
    torch.manual_seed(0)
    net = open_clip_zoo._network("", name, {})
    how, _ = open_clip_zoo._preprocessing("", net, {})
    listed = ClassList(tuple("abcd"))
    table = torch.randn(len(listed), width)
    model = classifier(name, net, lambda sentences: table[: len(sentences)], listed, [(n,) for n in listed.names], how)
    targets = torch.arange(4)
    items = tuple(Item(str(i), str(i), i, str(i)) for i in range(4))
    batch = Batch(pictures(224, 1).repeat(4, 1, 1, 1), targets, items)
    activations, gradients = ModelView(model).feature_gradients(batch)
    cams = (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)
    assert cams.shape == (4, 7, 7)
    assert cams.isfinite().all()
    assert (cams.amax(dim=(1, 2)) > 0).any()


def test_names_are_all_architectures_and_all_their_tags():
    names = open_clip_zoo.names()
    assert {"ViT-B-32", "ViT-B-32/openai", "RN50/openai", "convnext_base_w/laion2b_s13b_b82k"} <= set(names)
    assert registry.get("model", "open_clip/ViT-B-32/openai").id == "open_clip/<name>"
    sizes = {(c["interpolation"], c["resize_mode"]) for tags in pretrained._PRETRAINED.values() for c in tags.values()}
    assert sizes <= {(i, r) for i in ("bicubic", "bilinear") for r in ("shortest", "squash", "longest")}


def test_configurations_of_open_clip_are_left_as_they_were():
    before = copy.deepcopy(open_clip.get_model_config("tiny-vit"))
    open_clip_zoo._network("", "tiny-vit", {"quick_gelu": True})
    assert open_clip.get_model_config("tiny-vit") == before
