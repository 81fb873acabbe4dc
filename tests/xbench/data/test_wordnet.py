"""The graph of nouns against another parser, against nltk's reader, and against what timm says of ImageNet's ids."""

import importlib.util
import os
import re
import subprocess
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from timm.data.imagenet_info import ImageNetInfo

from xbench.data import wordnet
from xbench.data.classes import imagenet_1k
from xbench.data.wordnet import Synset, WordNet, compact
from xbench.errors import XbenchError

FILES = Path("/usr/share/wordnet")  # of Debian's wordnet-base
TOOL = Path(__file__).parents[3] / "tools" / "wordnet.py"
installed = pytest.mark.skipif(not (FILES / "data.noun").is_file(), reason="needs Debian's wordnet-base")

LICENCE = "  1 This software and database is being provided to you\n  2 as it is.\n"
# Two hypernyms of one (bat), an instance (Nile), pointers of other kinds and to other parts of speech, several quotation marks.
DATA = [
    "00000010 03 n 01 entity 0 002 ~ 00000020 n 0000 ~ 00000030 n 0000 | that which is",
    "00000020 05 n 02 animal 0 wild_beast 0 003 @ 00000010 n 0000 + 00000099 v 0101 ~ 00000050 n 0000 | a living thing; "
    '"no animal speaks"; "a `beast\' of prey"- Byron',
    '00000030 06 n 01 instrument 0 001 @ 00000010 n 0000 | a thing to work with (as in "blunt instrument")',
    '00000040 17 n 01 Nile 0 001 @i 00000010 n 0000 | a river: "up the Nile";',
    "00000050 05 n 02 bat 0 Chiroptera 2 002 @ 00000020 n 0000 #m 00000030 n 0000 | flies; mostly at night",
    '00000060 06 n 01 bat 1 003 @ 00000030 n 0000 ;c 00000020 n 0000 @ 00000020 n 0000 | a club, "a bat"; of wood',
]
INDEX = [
    "animal n 1 2 @ ~ 1 0 00000020",
    "bat n 2 2 @ ;c 2 1 00000060 00000050",
    "chiroptera n 1 1 @ 1 0 00000050",
    "entity n 1 1 ~ 1 1 00000010",
    "instrument n 1 1 @ 1 0 00000030",
    "nile n 1 1 @i 1 0 00000040",
    "wild_beast n 1 1 @ 1 0 00000020",
]
DATA, INDEX = (LICENCE + "".join(f"{line}  \n" for line in lines) for lines in (DATA, INDEX))


def plainly(data: str, index: str) -> dict:
    """wnid -> (name, lemmas, hypernyms), with regular expressions."""
    senses = {m[1]: m[2].split() for m in re.finditer(r"^(\S+) n .*?((?: \d{8})+) *$", index, re.MULTILINE)}
    found = {}
    for m in re.finditer(r"^(\d{8}) \d\d n (\w\w) ((?:\S+ [0-9a-f] )+)\d{3} (.*?)\| ", data, re.MULTILINE):
        lemmas = re.findall(r"(\S+) [0-9a-f](?: |$)", m[3])
        assert len(lemmas) == int(m[2], 16)
        number = [i for i, offset in enumerate(senses[lemmas[0].lower()], 1) if offset == m[1]]
        above = re.findall(r"(?:^|\s)@i? (\d{8}) n", m[4])
        spaced = tuple(lemma.replace("_", " ") for lemma in lemmas)
        found["n" + m[1]] = (f"{lemmas[0].lower()}.n.{number[0]:02}", spaced, {"n" + offset for offset in above})
    return found


def described(graph: WordNet) -> dict:
    return {s.wnid: (s.name, s.lemmas, {h.wnid for h in graph.hypernyms(s)}) for s in graph}


def fixture(module=wordnet) -> WordNet:
    return module.parse(DATA.splitlines(), INDEX.splitlines())


def names(synsets) -> list[str]:
    return [s.name for s in synsets]


# -- the database -----------------------------------------------------------------------------------------------------------------


def agrees(module) -> bool:
    """Whether a module reads the fixture as it is meant."""
    graph = fixture(module)
    glosses = [s.gloss for s in graph]
    wanted = ["that which is", "a living thing", 'a thing to work with (as in "blunt instrument")', "a river"]
    written = module.from_lines(module.to_lines(graph))
    return (
        described(graph) == plainly(DATA, INDEX) == described(written)
        and graph.synset("n00000060").name == "bat.n.01"
        and glosses == [*wanted, "flies; mostly at night", "a club; of wood"]
        and [s.gloss for s in written] == glosses
        and names(graph.closure(graph.synset("entity"))) == [f"{w}.n.0{k}" for w, k in ENTITY]
        and names(graph.hyponyms(graph.synset("animal"))) == ["bat.n.02", "bat.n.01"]
        and names(graph.ancestors(graph.synset("bat.n.01"))) == ["animal.n.01", "instrument.n.01", "entity.n.01"]
        and names(graph.leaves(graph.synset("animal"))) == ["bat.n.02", "bat.n.01"]
        and names(graph.leaves(graph.synset("nile"))) == ["nile.n.01"]
        and names(graph.of_word("WILD_beast")) == ["animal.n.01"]
    )


ENTITY = [("entity", 1), ("animal", 1), ("instrument", 1), ("nile", 1), ("bat", 2), ("bat", 1)]


def test_the_format_of_the_database_is_read_as_it_is_meant():
    assert agrees(wordnet)


MUTANTS = [
    ('kind in ("@", "@i")', 'kind == "@"'),
    ('kind in ("@", "@i")', 'kind in ("@", "@i", ";c")'),
    ('kind in ("@", "@i")', 'kind[0] in "@#"'),
    ("index(offset) + 1", "index(offset)"),
    ("words[: 2 * int(count, 16) : 2]", "words[: 2 * int(count, 16)]"),
    ("fields[-int(count) :]", "fields[-int(count) - 1 :]"),
    ('not line.startswith("  ")', "True"),
    ("lemmas[0].lower()", "lemmas[-1].lower()"),
    ("for s in self.closure(synset) if not", "for s in self.closure(synset)[1:] if not"),
    ("self._above)[1:]", "self._above)"),
    ('replace("_", " ")', "strip()"),
    ('_EXAMPLE.sub("", gloss)', "gloss"),
    (r'_EXAMPLE.sub("", gloss)', r"""re.sub('"[^"]*"', "", gloss)"""),
    ("self._of = {synset.wnid: synset for synset in sorted(synsets, key=lambda s: s.wnid)}",
     "self._of = {synset.wnid: synset for synset in sorted(synsets, key=lambda s: s.name)}"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(number, monkeypatch):
    old, new = MUTANTS[number]
    source = Path(wordnet.__file__).read_text(encoding="utf-8")
    assert old in source, old
    module = types.ModuleType("wordnet_mutant")
    monkeypatch.setitem(sys.modules, "wordnet_mutant", module)
    exec(compile(source.replace(old, new), "wordnet_mutant", "exec"), module.__dict__)
    caught = False
    try:
        caught = not agrees(module)
    except (ValueError, IndexError, KeyError, XbenchError, MemoryError):
        caught = True
    assert caught


@installed
def test_what_ships_is_what_the_database_says():
    data, index = ((FILES / f"{kind}.noun").read_text() for kind in ("data", "index"))
    whole, shipped = plainly(data, index), described(compact())
    assert len(whole) == wordnet.NOUNS
    assert all(whole[wnid] == about for wnid, about in shipped.items())


@installed
def test_what_ships_is_what_the_tool_makes(capsys, tmp_path, monkeypatch):
    tool = tools()
    monkeypatch.setattr(tool, "MADE", tmp_path / "made.gz")
    tool.main(FILES)
    assert "1848 common objects" in capsys.readouterr().out
    made = zlib.decompress((tmp_path / "made.gz").read_bytes(), wbits=31)
    assert made == zlib.decompress(shipped_bytes(), wbits=31)


NLTKS = """
from nltk.corpus import wordnet
from xbench.data.wordnet import compact, full

graph, whole, others = compact(), full(), 0
assert len(whole) == 82115
for synset in graph:
    theirs = wordnet.synset_from_pos_and_offset("n", int(synset.wnid[1:]))
    above = theirs.hypernyms() + theirs.instance_hypernyms()
    assert synset in whole
    assert synset.name == theirs.name()
    assert synset.lemmas == tuple(lemma.replace("_", " ") for lemma in theirs.lemma_names())
    assert sorted(s.name for s in graph.hypernyms(synset)) == sorted(s.name() for s in above)
    assert graph.hypernyms(synset) == whole.hypernyms(synset)
    others += synset.gloss != theirs.definition()
assert others < 30, others  # nltk also cuts quotation marks out of definitions, and leaves who said an example
dog = whole.synset("dog.n.01")
assert len(whole.closure(dog)) > len(graph.closure(dog)) > 100
"""


@installed
def test_names_words_and_glosses_are_those_of_nltk_and_so_comes_the_full_graph(tmp_path):
    pytest.importorskip("nltk")
    environment = {**os.environ, "NLTK_DATA": str(corpus(tmp_path / "corpora").parents[1])}
    done = subprocess.run([sys.executable, "-c", NLTKS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def corpus(folder: Path) -> Path:
    """Debian's files as nltk wants its corpus."""
    made = folder / "wordnet"
    made.mkdir(parents=True)
    for path in (*FILES.glob("data.*"), *FILES.glob("index.*"), *FILES.glob("*.exc"), FILES / "cntlist.rev"):
        (made / path.name).write_bytes(path.read_bytes())
    (made / "index.sense").touch()
    (made / "lexnames").write_text("".join(f"{i:02}\tfile{i}\t1\n" for i in range(45)))
    return made


# -- what ships -------------------------------------------------------------------------------------------------------------------


def shipped_bytes() -> bytes:
    return Path(wordnet.__file__).with_name("wordnet.tsv.gz").read_bytes()


def tools():
    if not TOOL.is_file():
        pytest.skip("needs the source tree")
    spec = importlib.util.spec_from_file_location("wordnet_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_classes_of_imagenet_are_there_with_the_words_that_timm_has_for_them():
    graph, info = compact(), ImageNetInfo()
    for index, wnid in enumerate(imagenet_1k().synsets):
        assert ", ".join(graph.synset(wnid).lemmas) == info.index_to_description(index)


def test_every_synset_is_below_entity_and_none_is_below_itself():
    graph = compact()
    root = graph.synset("entity.n.01")
    assert set(graph.closure(root)) == set(graph)
    assert names(s for s in graph if not graph.hypernyms(s)) == ["entity.n.01"]
    assert not any(s in graph.ancestors(s) for s in graph)
    assert len({s.name for s in graph}) == len(graph) == 8254


def test_kinds_are_kinds():
    graph = compact()
    classes = set(imagenet_1k().synsets)
    families = {"bird.n.01": 59, "spider.n.01": 6, "ungulate.n.01": 17, "edible_fruit.n.01": 10, "aircraft.n.01": 4}
    assert {name: len({s.wnid for s in graph.closure(graph.synset(name))} & classes) for name in families} == families


def test_every_class_of_the_listed_datasets_has_a_synset_below_what_it_is():
    tool, graph = tools(), compact()
    listed = tool.tomllib.loads((TOOL.parent / "wordnet_words.toml").read_text())
    sizes = {"cifar_10": 10, "cifar_100": 100, "svhn": 10, "voc": 20, "coco": 80, "cub_200": 200, "flowers_102": 102}
    assert {name: len(listed[name]["names"]) for name in sizes} == sizes
    for name, about in listed.items():
        below = {lemma for s in graph.closure(graph.synset(about["root"])) for lemma in s.lemmas}
        words = list(tool.class_words(graph, name, **about))
        assert len(words) == len(about["names"])
        assert set(words) <= below


def test_the_file_says_when_it_was_made_nowhere_and_holds_what_the_graph_says():
    packed = shipped_bytes()
    assert packed[4:8] == bytes(4)
    text = zlib.decompress(packed, wbits=31).decode()
    assert text.startswith("# Of WordNet 3.0, Copyright 2006 by Princeton University.")
    assert text == zlib.decompress(tools().packed(compact()), wbits=31).decode()


def test_the_licence_ships():
    text = Path(wordnet.__file__).with_name("WORDNET-LICENSE").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in text
    assert "the same appear on ALL copies" in " ".join(text.split())


def test_no_torch_is_needed():
    code = "import sys\nfrom xbench.data.wordnet import compact\ncompact().synset('bird.n.01')\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the graph --------------------------------------------------------------------------------------------------------------------


def drawn(seed: int, order: int = 0) -> WordNet:
    """40 synsets, each below up to three earlier ones."""
    rng = np.random.default_rng(seed)
    above = {i: sorted({int(j) for j in rng.integers(0, i, rng.integers(1, 4))}) for i in range(1, 40)}
    synsets = [Synset(f"w{i}.n.01", f"n{i:08}", (f"w{i}", "any"), f"g{i}") for i in range(40)]
    given = [synsets[i] for i in np.random.default_rng(order).permutation(40)]
    return WordNet(given, {f"n{i:08}": [f"n{j:08}" for j in found] for i, found in above.items()})


def recursively(graph: WordNet, synset: Synset, step) -> set[Synset]:
    return {synset}.union(*(recursively(graph, s, step) for s in step(synset)))


@pytest.mark.parametrize("seed", range(5))
def test_what_is_reached_is_what_recursion_reaches_each_once_whatever_the_order(seed):
    graph, other = drawn(seed), drawn(seed, order=1)
    for synset in graph:
        below, above = graph.closure(synset), graph.ancestors(synset)
        assert below[0] == synset
        assert len(set(below)) == len(below)
        assert set(below) == recursively(graph, synset, graph.hyponyms)
        assert {synset, *above} == recursively(graph, synset, graph.hypernyms)
        assert len(set(above)) == len(above)
        assert graph.leaves(synset) == tuple(s for s in below if not graph.hyponyms(s))
        assert (below, above) == (other.closure(synset), other.ancestors(synset))
        assert all(synset in graph.hyponyms(h) for h in graph.hypernyms(synset))
    assert list(graph) == list(other)
    assert len(graph.of_word("Any")) == 40


def test_the_digest_is_that_of_the_content():
    plain, entity = fixture(), Synset("entity.n.01", "n00000010", ("entity",), "that which is")
    assert plain.digest == fixture().digest == wordnet.from_lines(reversed(list(wordnet.to_lines(plain)))).digest
    others = [s for s in plain if s != entity]
    above = {s.wnid: [h.wnid for h in plain.hypernyms(s)] for s in plain}
    assert WordNet([entity, *others], above).digest == plain.digest
    changed = [
        WordNet([entity, *others], above | {"n00000060": ["n00000030"]}),
        WordNet([Synset("entity.n.01", "n00000010", ("entity",), "that which was"), *others], above),
        WordNet([Synset("entity.n.01", "n00000010", ("entity", "thing"), "that which is"), *others], above),
        WordNet([Synset("entity.n.02", "n00000010", ("entity",), "that which is"), *others], above),
        WordNet([entity, *others[:-1]], above),
    ]
    assert len({plain.digest, *(graph.digest for graph in changed)}) == 6


def test_a_synset_by_name_by_wnid_and_by_a_word_of_its_own():
    graph = compact()
    dog = graph.synset("dog.n.01")
    assert (
        dog
        == graph.synset("n02084071")
        == graph.synset("Canis familiaris")
        == graph.synset("DOMESTIC_DOG")
        == graph.synset("Dog.n.01")
    )
    assert dog in graph
    assert "dog.n.01" in graph
    assert "n02084071" in graph
    assert "dog" not in graph
    assert 7 not in graph
    assert Synset("dog.n.01", "n02084071", ("dog",), "else") not in graph


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("zebrra", "no synset 'zebrra' among these 8,254 of WordNet's nouns; did you mean 'zebra'?"),
        ("penguinn.n.01", "no synset 'penguinn.n.01' among these 8,254 of WordNet's nouns; did you mean 'penguin.n.01'?"),
        ("zebra.n.03", "no synset 'zebra.n.03' among these 8,254 of WordNet's nouns; did you mean 'zebra.n.01'?"),
        ("n02084072", "no synset 'n02084072' among these 8,254 of WordNet's nouns"),
        ("", "no synset '' among these 8,254 of WordNet's nouns"),
        (
            "crane",
            "'crane' has 2 meanings; name one of crane.n.05: large long-necked wading bird of marshes and plains in many parts "
            "of the world | crane.n.04: lifts and moves heavy objects; lifting tackle is suspended from a pivoted boom that "
            "rotates around a vertical axis",
        ),
    ],
)
def test_what_is_not_there_or_not_clear_is_said_in_one_line(asked, message):
    with pytest.raises(XbenchError) as caught:
        compact().synset(asked)
    assert str(caught.value) == message


def test_without_nltk_or_its_corpus_the_full_graph_says_what_to_get(monkeypatch):
    def absent(_):
        raise LookupError("Resource wordnet not found.\nPlease use the NLTK Downloader")

    wordnet.full.cache_clear()
    fake = types.SimpleNamespace(wordnet=types.SimpleNamespace(open=absent))
    monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", fake)
    with pytest.raises(XbenchError, match=r"^nltk has no whole corpus `wordnet` here; get it: python -m nltk\.downloader wordnet$"):
        wordnet.full()
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(XbenchError, match=r"^the full WordNet needs nltk: pip install nltk"):
        wordnet.full()


def test_another_version_than_30_is_refused(monkeypatch, tmp_path):
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    wordnet.full.cache_clear()
    fake = types.SimpleNamespace(wordnet=types.SimpleNamespace(open=lambda name: (tmp_path / name).open()))
    monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", fake)
    with pytest.raises(XbenchError, match=r"^nltk's corpus has 6 nouns, not the 82,115 of WordNet 3\.0, whose ids ImageNet has$"):
        wordnet.full()
