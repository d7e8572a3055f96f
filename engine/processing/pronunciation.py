"""English text to phones: a lexicon that a checkpoint brings along, and rules for words that it lacks.

The phones are misaki's (https://github.com/hexgrad/misaki), in which a vowel carries its stress as a mark in front.
Each is written with letters outside of ASCII, so that phones are told from text: phones come back as they are. Words
are read one by one: pieces of a text give the same phones as the whole of it.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from engine.processing.numerals import read_aloud

VOWELS = "AIOWYiuæɑɔəɛɜɪʊʌᵊᵻɐ"
CONSONANTS = "bdfhjklmnpstvwzðŋɡɹʃʒʤʧθT"
STRESSES = ("", "ˈ", "ˌ")
MARKS = ",.?!"
WIDE = {ord(c): ord(c) + 0xFEE0 for c in VOWELS + CONSONANTS if c.isascii()}
"""ASCII letters of phones to those that stand for them."""
PHONES = tuple(text.translate(WIDE) for text in (*(s + v for v in VOWELS for s in STRESSES), *CONSONANTS))
"""Every phone as it is written; also the talker's vocabulary, together with :data:`MARKS`."""

WEAK = {
    "a": "ɐ", "an": "ɐn", "the": "ðə", "to": "tə", "i": "ˌI", "and": "ænd", "of": "ʌv", "in": "ɪn", "is": "ɪz",
    "ok": "ˌOkˈA", "okay": "ˌOkˈA", "mr": "mˈɪstəɹ", "mrs": "mˈɪsᵻz", "ms": "mˈɪz", "dr": "dˈɑktəɹ", "st": "sˈAnt",
    "ay": "ˈA", "vs": "vˈɜɹsəs", "etc": "ɛtsˈɛTəɹə", "qwen": "kwˈɛn",
    "cafe": "kæfˈA", "iphone": "ˈIfOn", "wifi": "wˈIfI", "wi": "wˈI", "fi": "fI", "chatgpt": "ʧˈætʤˌipˌitˈi",
}  # fmt: skip
"""Words as they are said inside a sentence."""

SPELLING = re.compile(r"(?<!['’][A-Za-z] )(?<=\b[b-hj-zB-HJ-Z] )[aA]\b|\b[aA](?= [b-zB-Z]\b)")
"""Among other single letters "a" is the name of a letter, elsewhere the article."""

DOTTED = re.compile(r"\b([A-Za-z])\.(?=[A-Za-z]\b)")
"""A letter of "p.m." or "U.S.", whose point ends no sentence."""

LETTER_SOUNDS = (
    ("tion", "ʃən"), ("sion", "ʒən"), ("ture", "ʧəɹ"), ("cious", "ʃəs"), ("tious", "ʃəs"), ("ight", "It"),
    ("ough", "O"), ("augh", "ɔ"), ("eigh", "A"), ("tch", "ʧ"), ("dge", "ʤ"), ("sch", "ʃ"), ("igh", "I"),
    ("all", "ɔl"), ("ous", "əs"), ("ing", "ɪŋ"), ("ch", "ʧ"), ("sh", "ʃ"), ("th", "θ"), ("ph", "f"), ("wh", "w"),
    ("ck", "k"), ("ng", "ŋ"), ("qu", "kw"), ("kn", "n"), ("wr", "ɹ"), ("gh", "ɡ"), ("ee", "i"), ("ea", "i"),
    ("oo", "u"), ("ou", "W"), ("ow", "O"), ("ai", "A"), ("ay", "A"), ("oi", "Y"), ("oy", "Y"), ("au", "ɔ"),
    ("aw", "ɔ"), ("oa", "O"), ("ie", "i"), ("ei", "A"), ("ey", "i"), ("ew", "u"), ("ue", "u"), ("er", "əɹ"),
    ("ir", "ɜɹ"), ("ur", "ɜɹ"), ("ar", "ɑɹ"), ("or", "ɔɹ"), ("bb", "b"), ("cc", "k"), ("dd", "d"), ("ff", "f"),
    ("gg", "ɡ"), ("ll", "l"), ("mm", "m"), ("nn", "n"), ("pp", "p"), ("rr", "ɹ"), ("ss", "s"), ("tt", "t"),
    ("zz", "z"), ("ce", "s"), ("ci", "sɪ"), ("cy", "si"), ("ge", "ʤ"), ("x", "ks"), ("a", "æ"), ("b", "b"),
    ("c", "k"), ("d", "d"), ("e", "ɛ"), ("f", "f"), ("g", "ɡ"), ("h", "h"), ("i", "ɪ"), ("j", "ʤ"), ("k", "k"),
    ("l", "l"), ("m", "m"), ("n", "n"), ("o", "ɑ"), ("p", "p"), ("q", "k"), ("r", "ɹ"), ("s", "s"), ("t", "t"),
    ("u", "ʌ"), ("v", "v"), ("w", "w"), ("y", "i"), ("z", "z"),
    ("A", "A"), ("I", "I"), ("O", "O"), ("U", "u"),
)  # fmt: skip
"""Letter groups and their sound, the first that fits: a guess for what is neither a known word nor made of known
ones."""
LONG_VOWEL = re.compile("(?<![aeiou])([aiou])(?=[bcdfgklmnprstvz]e$)")
"""A vowel that the "e" behind the next letter makes sound as its own name; it is written as a capital then."""
ENDS = (("a", "ə"), ("o", "O"), ("i", "i"), ("e", ""), ("es", "z"), ("ed", "d"), ("ia", "iə"))
"""What the last letters of a word sound like."""

_TOKEN = re.compile(rf"(?:{'|'.join(PHONES)})+|[A-Za-z]+(?:'[A-Za-z]+)*|[{MARKS}]")
_STAND_FOR = str.maketrans(
    {"’": "'", "‘": "'", ";": ",", ":": ",", "—": ",", "–": ",", "…": ".", "(": ",", ")": ",", "。": ".", "！": "!",
     "？": "?", "，": ",", "、": ",", "ɾ": "T", "ʔ": "t"}
)  # fmt: skip


class Pronunciation:
    """Phones of any English text."""

    def __init__(self, lexicon: Mapping[str, str]) -> None:
        """``lexicon``: phones of words in lower case, in misaki's own letters."""
        self._lexicon = {**lexicon, **WEAK}
        self._cached = lru_cache(maxsize=4096)(self._word)

    @classmethod
    def from_file(cls, path: Path) -> Pronunciation:
        """Reads lines of ``word<tab>phones``, compressed with gzip. Raises OSError, UnicodeError or ValueError."""
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return cls(dict(_entry(line) for line in file))

    def __call__(self, text: str) -> str:
        """``text`` as phones and the marks ``, . ? !``; all else that it holds is left out."""
        return "".join(self.tokens(text))

    def tokens(self, text: str) -> list[str]:
        """The same word by word and mark by mark."""
        figures = read_aloud(_without_accents(DOTTED.sub(r"\1 ", text)))  # to which a colon is part of a time
        plain = SPELLING.sub("ay", figures.translate(_STAND_FOR))
        return [self._cached(token) if token[0].isascii() else token for token in _TOKEN.findall(plain)]

    def knows(self, word: str) -> bool:
        """Whether a word in lower case is pronounced without guessing from its letters."""
        return self._known(word) is not None

    def _word(self, word: str) -> str:
        if word in MARKS:
            return word
        small = word.lower()
        if len(word) > 1 and word.isupper() and (small not in self._lexicon or len(word) <= 3) and len(word) <= 5:
            found: str | None = self._letters(small) if small not in WORDS_IN_CAPITALS else self._known(small)
        else:
            found = self._known(small)
        return (found or self._guess(small)).translate(_STAND_FOR).translate(WIDE)

    def _known(self, word: str) -> str | None:
        """Phones of a word of the lexicon, of one of those with an ending, or of two of them in one."""
        found = self._lexicon.get(word)
        if found is None:
            found = self._ended(word)
        if found is None and len(word) >= 6:
            for cut in range(len(word) - 3, 2, -1):
                first, second = self._lexicon.get(word[:cut]), self._lexicon.get(word[cut:])
                if first and second:
                    return first + second.replace("ˌ", "").replace("ˈ", "ˌ")
        for letters, sound in PREFIXES if found is None else ():
            rest = self._lexicon.get(word.removeprefix(letters)) if word.startswith(letters) else None
            if rest:
                return sound + rest
        return found

    def _ended(self, word: str) -> str | None:
        for ending, stems, sound in ENDINGS:
            if word.endswith(ending) and len(word) > len(ending) + 1:
                for stem in stems:
                    known = self._lexicon.get(word[: -len(ending)] + stem)
                    if known:
                        return known + (sound or _plural(known) if ending.endswith("s") else sound or _past(known))
        return None

    def _letters(self, word: str) -> str:
        return "".join(NAMES_OF_LETTERS.get(letter) or self._lexicon.get(letter, "") for letter in word)

    def _guess(self, word: str) -> str:
        if len(word) == 1 or not re.search("[aeiouy]", word):
            return self._letters(word)
        word = word.replace("'", "")
        if re.search("[^sui]s$", word) and len(word) > 3:
            stem = self._guess(word[:-1])
            return stem + _plural(stem)
        word = LONG_VOWEL.sub(lambda found: found[1].upper(), word)
        end = next(((len(word) - len(letters), sound) for letters, sound in ENDS[::-1]
                    if word.endswith(letters) and len(word) > len(letters) + 1), (len(word), ""))  # fmt: skip
        sounds, at = "", 0
        while at < end[0]:
            letters, sound = next(
                (pair for pair in LETTER_SOUNDS if word.startswith(pair[0], at) and at + len(pair[0]) <= end[0]),
                (word[at], ""),
            )
            sounds, at = sounds + sound, at + len(letters)
        sounds += end[1]
        stressed = re.search(f"[{VOWELS}]", sounds)
        return sounds if stressed is None else f"{sounds[: stressed.start()]}ˈ{sounds[stressed.start() :]}"


NAMES_OF_LETTERS = {"a": "ˈA", "i": "ˈI"}
"""Of the letters that are words."""
WORDS_IN_CAPITALS = frozenset((
    "a", "i", "am", "an", "and", "any", "are", "as", "ask", "at", "be", "big", "but", "buy", "by", "can", "did", "do",
    "for", "get", "go", "had", "has", "he", "her", "him", "his", "how", "if", "in", "is", "it", "its", "let", "may",
    "me", "my", "new", "no", "not", "now", "of", "off", "oh", "ok", "old", "on", "one", "or", "our", "out", "pet",
    "put", "run", "say", "see", "she", "so", "the", "to", "too", "top", "try", "two", "up", "us", "use", "was", "way",
    "we", "who", "why", "yes", "yet", "you", "your",
))  # fmt: skip
"""Words that are words, and no abbreviations, in capitals too."""
PREFIXES = (("un", "ʌn"), ("non", "nˌɑn"), ("re", "ɹi"), ("mis", "mɪs"), ("pre", "pɹi"), ("over", "ˌOvəɹ"))
ENDINGS = (
    ("'s", ("",), ""), ("s'", ("s",), ""), ("ies", ("y",), ""), ("es", ("", "e"), ""), ("s", ("",), ""),
    ("ied", ("y",), ""), ("ed", ("", "e"), ""), ("ing", ("", "e"), "ɪŋ"), ("ly", ("", "le"), "li"),
    ("ness", ("",), "nəs"), ("less", ("",), "ləs"), ("ful", ("",), "fəl"), ("er", ("", "e"), "əɹ"),
    ("est", ("", "e"), "ᵻst"), ("y", ("",), "i"), ("n't", ("",), "ənt"), ("'ll", ("",), "əl"), ("'ve", ("",), "v"),
    ("'d", ("",), "d"), ("'re", ("",), "əɹ"), ("in'", ("ing",), ""),
)  # fmt: skip
"""Endings, what they stand for in the lexicon's word, and their sound where it is always the same."""


def _entry(line: str) -> tuple[str, str]:
    word, phones = line.rstrip("\n").split("\t")
    return word, phones


def _without_accents(text: str) -> str:
    """Letters without their accents; what is no letter of another one stays."""
    if text.isascii():
        return text
    return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))


def _plural(phones: str) -> str:
    return "ᵻz" if phones[-1] in "szʃʒʤʧ" else "s" if phones[-1] in "ptkfθ" else "z"


def _past(phones: str) -> str:
    return "ᵻd" if phones[-1] in "td" else "t" if phones[-1] in "pkfθsʃʧ" else "d"
