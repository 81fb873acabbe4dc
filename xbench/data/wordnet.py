"""The nouns of WordNet 3.0 (Miller 1995): what each is a kind of, its words and its gloss. Offsets are ImageNet's wnids.

``compact()`` ships with xbench, under WordNet's own licence (WORDNET-LICENSE); ``full()`` reads the corpus of a user's nltk.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from xbench.errors import XbenchError, did_you_mean

NOUNS = 82115  # in WordNet 3.0
_NAME = re.compile(r".+\.n\.\d\d+")
_WNID = re.compile(r"n\d{8}")
# A clause of its own in quotation marks, with who said it; other quotation marks belong to the definition.
_EXAMPLE = re.compile(r'(?:^|[;:,])\s*"[^"]*"(?:\s*-+[^;"]*)?(?=[;:,]|\s*$)')


@dataclass(frozen=True)
class Synset:
    """A meaning. name: ``bird.n.01``, the first lemma with the number of its sense, as nltk has it. wnid: ``n01503061``.

    lemmas: the words that mean it, with blanks. gloss: the definition, without its examples.
    """

    name: str
    wnid: str
    lemmas: tuple[str, ...]
    gloss: str


class WordNet:
    """Synsets and what is above and below them: a graph without circles, in which one may have several hypernyms.

    above: wnid -> wnids of its hypernyms, those of instances (the Nile is an instance of a river) too; all are in the graph.
    Iteration, and every tuple that is returned, is in the order of the wnids, except where it is said.
    """

    def __init__(self, synsets: Iterable[Synset], above: Mapping[str, Sequence[str]]) -> None:
        self._of = {synset.wnid: synset for synset in sorted(synsets, key=lambda s: s.wnid)}
        self._above = {wnid: tuple(sorted(above.get(wnid, ()))) for wnid in self._of}
        below: dict[str, list[str]] = {wnid: [] for wnid in self._of}
        for wnid, hypernyms in self._above.items():
            for hypernym in hypernyms:
                below[hypernym].append(wnid)
        self._below = {wnid: tuple(found) for wnid, found in below.items()}
        self._named = {synset.name: synset for synset in self}

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[Synset]:
        return iter(self._of.values())

    def __contains__(self, what: object) -> bool:
        """Whether a synset, or one of that name or wnid, is there."""
        if isinstance(what, Synset):
            return self._of.get(what.wnid) == what
        return what in self._of or what in self._named

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of all that it says, hex: part of the keys of what depends on it."""
        hasher = hashlib.sha256()
        for synset in self:
            hasher.update(repr((synset, self._above[synset.wnid])).encode())
        return hasher.hexdigest()

    def synset(self, what: str) -> Synset:
        """The synset of a name (``bird.n.01``), of a wnid (``n01503061``), or of a word that has but one here (``traffic light``).

        Raises:
            XbenchError: there is none, or the word has several; the message names the nearest, or all with their glosses.
        """
        found = self._of.get(what) or self._named.get(what.lower())
        if found is not None:
            return found
        meanings = self.of_word(what)
        if len(meanings) == 1:
            return meanings[0]
        if meanings:
            listed = " | ".join(f"{s.name}: {s.gloss}" for s in meanings)
            raise XbenchError(f"{what!r} has {len(meanings)} meanings; name one of {listed}")
        if _NAME.fullmatch(what.lower()):
            hint = self._instead(what.lower())
        else:
            hint = did_you_mean(_key(what), () if _WNID.fullmatch(what) else self._words)
        raise XbenchError(f"no synset {what!r} among these {len(self):,} of WordNet's nouns{hint}")

    def _instead(self, name: str) -> str:
        """A hint for a name that is not there: other meanings of its word come before words that are spelled alike."""
        others = [s.name for s in self.of_word(name.partition(".n.")[0])]
        return f"; did you mean {' or '.join(map(repr, others))}?" if others else did_you_mean(name, self._named)

    def of_word(self, lemma: str) -> tuple[Synset, ...]:
        """All synsets that a word can mean, in any case, with blanks or underscores; none where it is not known."""
        return tuple(self._of[wnid] for wnid in self._words.get(_key(lemma), ()))

    def hypernyms(self, synset: Synset) -> tuple[Synset, ...]:
        """What it is a kind, or an instance, of: one step up."""
        return tuple(self._of[wnid] for wnid in self._above[synset.wnid])

    def hyponyms(self, synset: Synset) -> tuple[Synset, ...]:
        """Its kinds and instances: one step down."""
        return tuple(self._of[wnid] for wnid in self._below[synset.wnid])

    def closure(self, synset: Synset) -> tuple[Synset, ...]:
        """It and everything below it, each once; itself first."""
        return self._reached(synset, self._below)

    def ancestors(self, synset: Synset) -> tuple[Synset, ...]:
        """Everything above it, each once, up to ``entity.n.01``; the nearest first."""
        return self._reached(synset, self._above)[1:]

    def leaves(self, synset: Synset) -> tuple[Synset, ...]:
        """Those of its closure that have nothing below them here; itself, where that is so of it."""
        return tuple(s for s in self.closure(synset) if not self._below[s.wnid])

    def _reached(self, synset: Synset, steps: Mapping[str, tuple[str, ...]]) -> tuple[Synset, ...]:
        """Breadth first."""
        found = {synset.wnid: None}
        level = [synset.wnid]
        while level:
            level = [wnid for wnid in dict.fromkeys(w for from_ in level for w in steps[from_]) if wnid not in found]
            found |= dict.fromkeys(level)
        return tuple(self._of[wnid] for wnid in found)

    @functools.cached_property
    def _words(self) -> dict[str, tuple[str, ...]]:
        words: dict[str, tuple[str, ...]] = {}
        for synset in self:
            for key in dict.fromkeys(map(_key, synset.lemmas)):
                words[key] = (*words.get(key, ()), synset.wnid)
        return words


@functools.cache
def compact() -> WordNet:
    """The nouns that ship: the classes of ImageNet-1k, of the scenes and of other datasets, common objects, and all above them."""
    lines = gzip.decompress((resources.files("xbench.data") / "wordnet.tsv.gz").read_bytes()).decode().splitlines()
    return from_lines(line for line in lines if not line.startswith("#"))


@functools.cache
def full() -> WordNet:
    """All 82,115 nouns, from the corpus ``wordnet`` of the user's nltk. Nothing is downloaded.

    Raises:
        XbenchError: nltk or its corpus is not there, or the corpus is another version of WordNet, whose offsets differ.
    """
    try:
        from nltk.corpus import wordnet

        with wordnet.open("data.noun") as data, wordnet.open("index.noun") as index:
            parsed = parse(data, index)
    except ImportError as error:
        raise XbenchError("the full WordNet needs nltk: pip install nltk && python -m nltk.downloader wordnet") from error
    except (LookupError, OSError) as error:
        raise XbenchError("nltk has no whole corpus `wordnet` here; get it: python -m nltk.downloader wordnet") from error
    if len(parsed) != NOUNS:
        raise XbenchError(f"nltk's corpus has {len(parsed):,} nouns, not the {NOUNS:,} of WordNet 3.0, whose ids ImageNet has")
    return parsed


def parse(data: Iterable[str], index: Iterable[str]) -> WordNet:
    """A graph from the lines of WordNet's files ``data.noun`` and ``index.noun`` (described in wndb(5WN))."""
    senses: dict[str, list[str]] = {}
    for line in filter(_is_entry, index):
        lemma, _, count, *fields = line.split()
        senses[lemma] = fields[-int(count) :]
    synsets, above = [], {}
    for line in filter(_is_entry, data):
        head, _, gloss = line.partition("|")
        offset, _, _, count, *words = head.split()
        lemmas, pointers = words[: 2 * int(count, 16) : 2], words[2 * int(count, 16) + 1 :]
        first = lemmas[0].lower()
        name = f"{first}.n.{senses[first].index(offset) + 1:02}"
        synsets.append(Synset(name, f"n{offset}", tuple(map(_spaced, lemmas)), definition(gloss)))
        kinds = zip(pointers[::4], pointers[1::4], strict=False)
        above[f"n{offset}"] = [f"n{target}" for kind, target in kinds if kind in ("@", "@i")]
    return WordNet(synsets, above)


def definition(gloss: str) -> str:
    """A gloss of ``data.noun`` without its examples, which are clauses in quotation marks."""
    return " ".join(_EXAMPLE.sub("", gloss).split()).strip(" ;:,")


def to_lines(graph: WordNet) -> Iterator[str]:
    """One line for each synset: wnid, name, lemmas, wnids of its hypernyms, gloss; between tabs, several between semicolons."""
    for s in graph:
        above = (hypernym.wnid for hypernym in graph.hypernyms(s))
        yield "\t".join((s.wnid, s.name, ";".join(s.lemmas), ";".join(above), s.gloss))


def from_lines(lines: Iterable[str]) -> WordNet:
    """What ``to_lines`` wrote."""
    synsets, above = [], {}
    for line in lines:
        wnid, name, lemmas, hypernyms, gloss = line.rstrip("\n").split("\t")
        synsets.append(Synset(name, wnid, tuple(lemmas.split(";")), gloss))
        above[wnid] = hypernyms.split(";") if hypernyms else []
    return WordNet(synsets, above)


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("  ")  # lines of the licence begin with blanks


def _key(word: str) -> str:
    return _spaced(word).lower()


def _spaced(word: str) -> str:
    return word.replace("_", " ")
