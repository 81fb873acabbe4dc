"""Make xbench/data/wordnet.tsv.gz, the graph of nouns that ships, from WordNet 3.0's own files.

    apt-get install wordnet-base && python tools/wordnet.py [/usr/share/wordnet]

What it holds, with all hypernyms up to entity.n.01: the synsets of ImageNet-1k; every noun synset of the words for the classes in
wordnet_words.toml; and every noun synset of each common word for a physical object. That is a word of lower-case letters only of
whose uses in WordNet's tagged texts (cntlist.rev) at least half mean something below object.n.01, body_part.n.01 or food.n.02 that
is neither a person nor a location; 1,848 words are so.
"""

from __future__ import annotations

import gzip
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from xbench.data.classes import imagenet_1k
from xbench.data.wordnet import Synset, WordNet, parse, to_lines

HERE = Path(__file__).parent
MADE = HERE.parent / "xbench" / "data" / "wordnet.tsv.gz"
NOTICE = "# Of WordNet 3.0, Copyright 2006 by Princeton University. All rights reserved. The licence is in WORDNET-LICENSE."
OBJECTS = ("object.n.01", "body_part.n.01", "food.n.02")
NO_OBJECTS = ("person.n.01", "location.n.01")


def main(folder: Path) -> None:
    """Read the database in a folder and write the graph."""
    with (folder / "data.noun").open() as data, (folder / "index.noun").open() as index:
        whole = parse(data, index)
    listed = tomllib.loads((HERE / "wordnet_words.toml").read_text())
    wanted = [whole.synset(wnid) for wnid in imagenet_1k().synsets]
    words = common_objects(whole, folder)
    print(f"{len(words)} common objects")
    for dataset, about in listed.items():
        wanted += [whole.synset(wnid) for wnid in about.get("synsets", [])]
        words |= set(class_words(whole, dataset, **about))
    wanted += [synset for word in words for synset in whole.of_word(word)]
    made = cut(whole, wanted)
    MADE.write_bytes(packed(made))
    print(f"{len(made)} synsets, {MADE.stat().st_size} bytes, {made.digest}")


def packed(graph: WordNet) -> bytes:
    """The file's bytes, which depend on nothing else."""
    text = "\n".join((NOTICE, *to_lines(graph), ""))
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def cut(whole: WordNet, wanted: Iterable[Synset]) -> WordNet:
    """These synsets and all above them."""
    kept = {above for synset in set(wanted) for above in (synset, *whole.ancestors(synset))}
    return WordNet(kept, {s.wnid: [h.wnid for h in whole.hypernyms(s)] for s in kept})


def class_words(
    whole: WordNet, dataset: str, root: str, names: list[str], words: dict[str, str] | None = None, synsets: object = ()
) -> Iterator[str]:
    """The word that WordNet has for each class; what it shortens is printed."""
    below = whole.closure(whole.synset(root))
    known = {letters(lemma): lemma for synset in below for lemma in synset.lemmas}
    for name in names:
        parts = (words or {}).get(name, name).split()
        ends = (letters("".join(parts[start:])) for start in range(len(parts)))
        found = next((known[end] for end in ends if end in known), None)
        if found is None:
            raise SystemExit(f"{dataset}: WordNet has no word for {name!r} below {root}; give one in [{dataset}.words]")
        if letters(found) != letters(name):
            print(f"{dataset}: {name} -> {found}")
        yield found


def common_objects(whole: WordNet, folder: Path) -> set[str]:
    """The words that the docstring above describes."""
    inside, outside = ({s.wnid for root in roots for s in whole.closure(whole.synset(root))} for roots in (OBJECTS, NO_OBJECTS))
    objects = inside - outside
    wnids = sense_keys(folder / "data.noun")
    spelled = {lemma.lower(): set[str]() for synset in whole for lemma in synset.lemmas}
    for synset in whole:
        for lemma in synset.lemmas:
            spelled[lemma.lower()].add(lemma)
    uses, as_object = Counter[str](), Counter[str]()
    for line in (folder / "cntlist.rev").read_text().splitlines():
        key, _, count = line.split()
        wnid = wnids.get(key)  # None: not a noun, or of an older version
        if wnid is not None:
            word = key.partition("%")[0]
            uses[word] += int(count)
            as_object[word] += int(count) * (wnid in objects)
    plain = (word for word in uses if re.fullmatch("[a-z]+", word) and spelled[word] == {word})
    return {word for word in plain if 0 < uses[word] <= 2 * as_object[word]}


def sense_keys(data: Path) -> dict[str, str]:
    """``dog%1:05:00::`` -> wnid, of every noun."""
    found = {}
    for line in data.read_text().splitlines():
        if not line.startswith("  "):
            offset, file, _, count, *words = line.partition("|")[0].split()
            of_synset = words[: 2 * int(count, 16)]
            for lemma, number in zip(of_synset[::2], of_synset[1::2], strict=True):
                found[f"{lemma.lower()}%1:{file}:{int(number, 16):02}::"] = f"n{offset}"
    return found


def letters(name: str) -> str:
    """``Brewer's blackbird`` -> ``brewerblackbird``."""
    return re.sub("[^a-z0-9]", "", name.lower().replace("'s", ""))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/wordnet"))
