from pathlib import Path

from xbench import keys
from xbench.registry import registry


def plugin(path: Path, body: str) -> str:
    path.write_text(f"from xbench import method\nimport helper\n\n@method('{path.stem}')\ndef f(model, batch):\n    {body}\n")
    return path.stem


def test_source_digest_follows_the_file_and_its_helpers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    helper = tmp_path / "helper.py"
    helper.write_text("x = 1\n")
    name = plugin(tmp_path / "with_helper.py", "return 1")

    def digest() -> str:
        keys._closure.cache_clear()
        keys._imports.cache_clear()
        registry.load(str(tmp_path / "with_helper.py"))
        return keys.source_digest(registry.method(name))

    before = digest()
    assert digest() == before
    helper.write_text("x = 2\n")
    after_helper = digest()
    assert after_helper != before
    plugin(tmp_path / "with_helper.py", "return 2")
    assert digest() not in (before, after_helper)


def test_a_wrapper_depends_on_the_sources_of_what_it_wraps():
    assert keys.sources(registry.method("tiny_negated(tiny_cam)")) >= keys.sources(registry.method("tiny_cam"))


def test_who_asks_wordnet_depends_on_its_module_and_its_data(tmp_path, monkeypatch):
    files = {Path(keys.__file__).with_name(name) for name in ("wordnet.py", "wordnet.tsv.gz")}
    helper, name = tmp_path / "helper.py", plugin(tmp_path / "asking.py", "return 1")
    registry.load(str(tmp_path / "asking.py"))
    method, real = registry.method(name), keys.file_digest
    lines = ["from xbench.wordnet import compact", "from xbench import wordnet", "import xbench.wordnet"]
    for line, asks in [("import xbench", False), *((line, True) for line in lines)]:
        helper.write_text(f"def f():\n    {line}\n")
        keys._closure.cache_clear()
        keys._imports.cache_clear()
        assert keys.sources(method) & files == (files if asks else set())
        assert "nltk" not in keys.libraries([method])
        before = keys.source_digest(method)
        for file in files:
            with monkeypatch.context() as patch:
                patch.setattr(keys, "file_digest", lambda path, file=file: "edited" if path == file else real(path))
                assert (keys.source_digest(method) != before) == asks
    assert all(file.is_file() for file in files)


def test_libraries_are_those_imported():
    found = keys.libraries([registry.method("tiny_cam")])
    assert "torch" in found
    assert not any(name.startswith("xbench") for name in found)


def test_protocol_key_tells_protocols_apart():
    dataset = registry.bind("dataset", "tiny_pictures")
    base = ("1", "prediction", "", "crop", registry.metric("tiny_deletion"), "float32")
    variants = [
        ("2", *base[1:]),
        ("1", "label", *base[2:]),
        (*base[:2], "sources_correct", *base[3:]),
        (*base[:3], "full", *base[4:]),
        (*base[:4], registry.metric("tiny_deletion(steps=5)"), "float32"),
        (*base[:5], "bfloat16"),
    ]
    found = {keys.protocol_key(dataset, *variant) for variant in [base, base, *variants]}
    assert len(found) == 1 + len(variants)


def test_a_metric_that_gains_a_keyword_only_parameter_keeps_its_columns(tmp_path):
    def key(signature, spec):
        (tmp_path / "gaining.py").write_text(
            "from xbench import metric\n\n"
            "@metric('gaining', kind='ground_truth', version='1', direction='higher')\n"
            f"def f(maps, truth, {signature}): ...\n"
        )
        registry.load(str(tmp_path / "gaining.py"))
        rest = ("1", "prediction", "", "crop")
        return keys.protocol_key(registry.bind("dataset", "tiny_pictures"), *rest, registry.metric(spec), "float32")

    before = key("size: int = 3", "gaining")
    added = "size: int = 3, *, split: str = 'all'"
    assert key(added, "gaining") == key(added, "gaining(split=all)") == before
    assert len({before, key(added, "gaining(split=some)"), key(added, "gaining(size=4)")}) == 3


def test_the_rule_modules_exist():
    assert all(path.is_file() for path in keys.rule_files())
