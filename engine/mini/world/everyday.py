"""Everyday sentences that lie outside of mini's world: what it hears of them is mostly "a word that I do not know"
between words that it knows, and it must not take them for a question that it can answer.

Every third sentence, and every third of the words that fill them, is kept apart to judge by: never trained on.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from pathlib import Path

from engine.mini.world.vocabulary import split

SENTENCES = Path(__file__).with_suffix(".txt")

_COUNTRIES = split("france germany italy spain canada brazil china japan india egypt norway poland kenya mexico greece")
_CITIES = split("paris london berlin madrid rome vienna chicago boston moscow tokyo sydney lisbon dublin hamburg oslo")

FILLERS: dict[str, list[str]] = {
    "country": _COUNTRIES,
    "place": [*_CITIES, *_COUNTRIES],
    "language": split("french spanish italian german chinese japanese russian arabic portuguese swedish dutch greek"),
    "day": split("monday tuesday wednesday thursday friday saturday sunday tomorrow"),
    "event": ["christmas", "easter", "halloween", "thanksgiving", "the wedding", "her birthday", "new year",
              "the holidays", "our anniversary"],
    "shop": ["supermarket", "bakery", "pharmacy", "library", "post office", "museum", "train station", "cinema", "gym",
             "hospital", "restaurant", "bank", "zoo", "hairdresser", "gas station"],
    "dish": ["pancakes", "spaghetti", "lasagna", "pizza", "chocolate cake", "fried rice", "vegetable soup",
             "mashed potatoes", "a sandwich", "apple pie", "roast chicken", "sushi", "an omelette", "curry",
             "scrambled eggs"],
    "ingredient": split("garlic rice butter flour salmon basil cheese spinach mushrooms lentils cream pasta beans beef "
                        "broccoli"),
    "relative": split("mother father sister brother wife husband grandmother uncle cousin daughter son dentist boss "
                      "neighbor aunt"),
    "room": ["kitchen", "bedroom", "living room", "bathroom", "garage", "hallway", "basement", "attic", "office"],
    "device": ["television", "dishwasher", "printer", "washing machine", "heater", "phone", "laptop", "headphones",
               "radio", "camera", "fridge", "vacuum cleaner", "microwave", "tablet", "router"],
    "artist": ["mozart", "madonna", "the beatles", "elvis presley", "charlie chaplin", "taylor swift", "miles davis",
               "bob dylan", "beyonce", "tom hanks", "freddie mercury", "meryl streep"],
    "medium": ["movie", "book", "series", "podcast", "novel", "documentary", "comic", "magazine", "musical"],
    "sport": split("football tennis basketball hockey baseball golf volleyball cricket rugby handball badminton chess"),
    "topic": ["climate change", "politics", "gravity", "electricity", "philosophy", "artificial intelligence",
              "evolution", "history", "economics", "photography", "religion", "astronomy", "inflation", "love",
              "democracy"],
    "invention": ["the telephone", "the internet", "the light bulb", "the bicycle", "television", "the printing press",
                  "penicillin", "the steam engine", "paper", "the compass", "radar", "dynamite"],
    "animal": split("dog cat rabbit hamster parrot horse elephant giraffe penguin dolphin tortoise goldfish kangaroo "
                    "squirrel hedgehog"),
    "petname": split("bella rocky luna charlie buddy snoopy milo oreo ginger daisy coco pepper"),
    "part": split("back knee shoulder stomach throat tooth foot neck head ankle elbow wrist"),
    "person": ["napoleon", "albert einstein", "cleopatra", "shakespeare", "marie curie", "julius caesar", "gandhi",
               "isaac newton", "leonardo da vinci", "abraham lincoln", "aristotle", "nelson mandela"],
    "job": split("nurse teacher carpenter lawyer programmer doctor cook journalist electrician pilot plumber engineer "
                 "gardener designer waiter"),
}  # fmt: skip


def everyday_sentence(rng: random.Random, *, judge: bool = False) -> tuple[str, str | None]:
    """A sentence, and the intent of :mod:`engine.mini.world.small_talk` whose answer is true for it, or None. With
    ``judge``, one of those that are kept apart."""
    pattern, intent = rng.choice(_sentences(judge))
    return re.sub(r"{(\w+)}", lambda slot: rng.choice(_part(FILLERS[slot[1]], judge)), pattern), intent


@lru_cache(maxsize=2)
def _sentences(judge: bool) -> list[tuple[str, str | None]]:
    lines = [line for line in SENTENCES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    parts = [line.partition(" | ") for line in _part(lines, judge)]
    return [(pattern, intent or None) for pattern, _, intent in parts]


def _part(lines: list[str], judge: bool) -> list[str]:
    """The third that is kept apart, or the others."""
    return [line for number, line in enumerate(lines) if (number % 3 == 2) == judge]
