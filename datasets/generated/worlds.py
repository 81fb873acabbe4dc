"""What is drawn in a picture of the generated world: one to four figures, one figure with a sticker, or a bird."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .birds import draw_bird
from .drawing import TURN, Bits, Bytes, Canvas, Figure, Floats, Place, background
from .figures import SHAPES as OUTLINES
from .figures import disc, pattern
from .vocabulary import BEAKS, BIRDS, COLOURS, PATTERNS, SHAPES, SIZES, Adjective, Noun, article

RADII = ((0.15, 0.3), (0.14, 0.25), (0.13, 0.2), (0.12, 0.18))  # least and most, of the side, for 1 to 4 objects
LEAST_VISIBLE = 0.6  # share of an object that later ones must leave
TRIES = 12  # for a place where an object hides none too much; then the best of them is taken

MARKS = {"plain": " of one colour", "striped": " with stripes", "dotted": " with dots", "checkered": " with checks"}
NUMBERS = {2: "two", 3: "three", 4: "four"}

# A sticker for each of the twelve classes: the colour of its rim and that of its disc.
STICKERS = [(rim, core) for rim in ("red", "green", "blue", "yellow") for core in ("white", "black", "pink")]


@dataclass(frozen=True)
class Thing:
    """An object. size: its adjective, where it is small or large. label: index of its class."""

    label: int
    noun: Noun
    colour: Adjective
    pattern: Adjective | None = None
    size: Adjective | None = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """Its adjectives, in the order in which English has them."""
        return tuple(a.name for a in (self.size, self.colour, self.pattern) if a is not None)


@dataclass(frozen=True)
class Picture:
    """image: uint8 ``[3, size, size]``. owner: uint8 ``[size, size]``, k where the k-th (from 1) of ``things`` is seen.

    For birds owner counts the parts instead; ``things`` is the bird. sticker: the class whose sticker there is.
    """

    image: Bytes
    owner: Bytes
    things: tuple[Thing, ...]
    sticker: int | None = None


def figures(seed: int, index: int, size: int, least: int, most: int) -> Picture:
    """``least`` to ``most`` figures, at most 4."""
    bits = Bits(seed, index)
    kinds = _kinds(bits, least, most)
    canvas, grounds = _ground(bits, size)
    things = _add(bits, canvas, grounds, kinds)
    return Picture(canvas.finish(bits, bits.between(3, 14)), canvas.owner, things)


def figure_labels(seed: int, index: int, least: int, most: int) -> tuple[int, ...]:
    """The classes in such a picture, each once, the largest object's first; without drawing it."""
    return tuple(dict.fromkeys(label for label, _ in _kinds(Bits(seed, index), least, most)))


def stickers(seed: int, index: int, size: int, telling: bool) -> Picture:
    """One figure, and in the background the sticker of its class (telling) or of any class."""
    bits = Bits(seed, index)
    kinds = _kinds(bits, 1, 1)
    label = _sticker(bits, kinds, telling)
    canvas, grounds = _ground(bits, size)
    things = _add(bits, canvas, grounds, kinds)
    radius, taken = size * bits.between(0.085, 0.11), canvas.owner > 0
    while True:
        x, y = (bits.between(radius, size - radius) for _ in range(2))
        place = canvas.place(x, y, radius, 0)
        assert place is not None
        rim = place.cover(disc(0, 0, 1.0))
        if not taken[place.window][rim > 0].any():
            break
    outer, inner = ({c.name: c for c in COLOURS}[name] for name in STICKERS[label])
    canvas.paint(place, rim, _rgb(bits, outer.rgb, 10), len(things) + 1)
    canvas.paint(place, place.cover(disc(0, 0, 0.55)), _rgb(bits, inner.rgb, 10), len(things) + 1)
    return Picture(canvas.finish(bits, bits.between(3, 14)), canvas.owner, things, label)


def sticker_labels(seed: int, index: int, telling: bool) -> tuple[int, int]:
    """(the figure's class, the sticker's class) of such a picture, without drawing it."""
    bits = Bits(seed, index)
    kinds = _kinds(bits, 1, 1)
    return kinds[0][0], _sticker(bits, kinds, telling)


def birds(seed: int, index: int, size: int) -> Picture:
    """A bird of one of the species."""
    bits = Bits(seed, index)
    species = bits.below(len(BIRDS))
    canvas, name = draw_bird(bits, size, species)
    colour = next(c for c in COLOURS if c.name == name)
    return Picture(canvas.finish(bits, bits.between(3, 12)), canvas.owner, (Thing(species, BIRDS[species], colour),))


def species(seed: int, index: int) -> int:
    """The class of the bird in such a picture, without drawing it."""
    return Bits(seed, index).below(len(BIRDS))


def captions(picture: Picture) -> tuple[str, ...]:
    """True sentences on a picture: its nouns; nouns and colours; all attributes, in two wordings; and what its nouns mean."""
    things = picture.things
    if things[0].noun in BIRDS:
        bird = things[0]
        beak = BEAKS[bird.label]
        return (
            f"a picture of {bird.noun.phrase}",
            _phrase((bird.colour.name,), bird.noun),
            f"{bird.noun.phrase} because its beak is {beak}",
            f"a bird whose beak is {beak}",
            bird.noun.gloss,
        )
    nouns = _list([((), t.noun, "") for t in things])
    coloured = _list([((t.colour.name,), t.noun, "") for t in things])
    full = _list([(t.attributes, t.noun, "") for t in things])
    after = _list([(t.attributes[:-1], t.noun, MARKS[t.attributes[-1]]) for t in things])
    meant = (t.noun for t in things[:1])
    glosses = tuple(text for noun in meant for text in (noun.gloss, *noun.definitions))
    return (f"a picture of {nouns}", f"a picture of {coloured}", full, after, *glosses)


def _kinds(bits: Bits, least: int, most: int) -> list[tuple[int, float]]:
    """(class, radius as a share of the side) of every object, the largest first."""
    count = least + bits.below(most - least + 1)
    drawn = [(bits.below(len(SHAPES)), bits.between(*RADII[count - 1])) for _ in range(count)]
    return sorted(drawn, key=lambda kind: -kind[1])


def _sticker(bits: Bits, kinds: list[tuple[int, float]], telling: bool) -> int:
    any_class = bits.below(len(STICKERS))
    return kinds[0][0] if telling else any_class


def _add(bits: Bits, canvas: Canvas, grounds: tuple[tuple[int, ...], ...], kinds: list[tuple[int, float]]) -> tuple[Thing, ...]:
    """Paint objects, smaller ones over larger ones."""
    things: list[Thing] = []
    areas: list[int] = []
    for label, share in kinds:
        outline = OUTLINES[SHAPES[label].name]
        angle = (bits.below(57) - 28) % TURN
        tries: list[tuple[float, Place, Floats]] = []
        while len(tries) < TRIES and (not tries or tries[-1][0] < LEAST_VISIBLE):
            tries.append(_try(bits, canvas, outline, share * canvas.size, angle, areas))
        _, place, coverage = max(tries, key=lambda found: found[0])
        colour = _apart(bits, grounds)
        surface = PATTERNS[max(0, bits.below(6) - 2)]  # half of all are plain
        size = SIZES[0] if share < 0.16 else SIZES[1] if share > 0.22 else None
        canvas.paint(place, coverage, _surface(bits, colour, surface, place), len(things) + 1)
        things.append(Thing(label, SHAPES[label], colour, surface, size))
        areas.append(int((coverage >= 0.5).sum()))
    return tuple(things)


def _try(bits: Bits, canvas: Canvas, outline: Figure, radius: float, angle: int, areas: list[int]) -> tuple[float, Place, Floats]:
    """(share of the most hidden object that would still be seen, a place, the coverage there)."""
    x, y = (bits.between(0.85 * radius, canvas.size - 0.85 * radius) for _ in range(2))
    place = canvas.place(x, y, radius, angle)
    assert place is not None  # its centre is inside
    coverage = place.cover(outline)
    hidden = np.bincount(canvas.owner[place.window][coverage >= 0.5], minlength=len(areas) + 1)[1:]
    seen = np.bincount(canvas.owner.ravel(), minlength=len(areas) + 1)[1:]
    return min((int(s - h) / a for s, h, a in zip(seen, hidden, areas, strict=True)), default=1.0), place, coverage


def _surface(bits: Bits, colour: Adjective, surface: Adjective, place: Place) -> Floats:
    """Colour, pattern and lighting of an object, ``[3, h, w]``."""
    paint = _rgb(bits, colour.rgb, 16)
    bright = sum(colour.rgb) > 380
    other = np.float32(0.4) * paint + np.float32(0.6) * np.float32(20 if bright else 245)
    share = pattern(surface.name, place.u, place.v, place.radius, bits.between(1.5, 2.4), bits.between(0, 1))
    if share is not None:
        paint = paint + (other - paint) * share
    strength, down = np.float32(bits.between(0, 0.25)), bits.chance(50)
    return paint * (np.float32(1) - strength * (place.v if down else place.u))


def _ground(bits: Bits, size: int) -> tuple[Canvas, tuple[tuple[int, ...], ...]]:
    ground, colours = background(bits, size)
    return Canvas(ground), colours


def _apart(bits: Bits, grounds: tuple[tuple[int, ...], ...]) -> Adjective:
    """A colour that differs from those of the background, or the one that does so most."""
    first = bits.below(len(COLOURS))
    turned = COLOURS[first:] + COLOURS[:first]

    def contrast(colour: Adjective) -> int:
        return min(max(abs(a - b) for a, b in zip(colour.rgb, ground, strict=True)) for ground in grounds)

    return next((c for c in turned if contrast(c) >= 70), max(turned, key=contrast))


def _rgb(bits: Bits, rgb: tuple[int, int, int], spread: int) -> Floats:
    return np.array([c + bits.below(2 * spread + 1) - spread for c in rgb], dtype=np.float32)[:, None, None]


def _phrase(adjectives: tuple[str, ...], noun: Noun, after: str = "", count: int = 1) -> str:
    """``a large red circle with stripes``, ``two red circles``."""
    words = " ".join((*adjectives, noun.plural if count > 1 else noun.name))
    return f"{NUMBERS[count] if count > 1 else article(words)} {words}{after}"


def _list(kinds: list[tuple[tuple[str, ...], Noun, str]]) -> str:
    """``a star, two red circles and an arrow``: the same things are counted."""
    phrases = [_phrase(*kind, count=count) for kind, count in Counter(kinds).items()]
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))
