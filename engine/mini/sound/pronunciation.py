"""Phones: the sounds of American English, as one character each, and rules that pronounce unknown words.

The phone set is that of the CMU pronouncing dictionary without stress; its names are used by flite and festival.
"""

from __future__ import annotations

from collections.abc import Iterable

PHONES: dict[str, str] = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "ᴁ", "AX": "ə", "AY": "ᴀ", "EH": "ɛ", "ER": "ɝ", "EY": "ᴇ",
    "IH": "ɪ", "IY": "ɨ", "OW": "ɵ", "OY": "œ", "UH": "ʊ", "UW": "ʉ",
    "B": "ɓ", "CH": "ʧ", "D": "ɗ", "DH": "ð", "F": "ɸ", "G": "ɠ", "HH": "ɦ", "JH": "ʤ", "K": "ƙ", "L": "ɫ", "M": "ɱ",
    "N": "ɳ", "NG": "ŋ", "P": "ƥ", "R": "ɹ", "S": "ʂ", "SH": "ʃ", "T": "ƭ", "TH": "θ", "V": "ⱱ", "W": "ʍ", "Y": "ʎ",
    "Z": "ʐ", "ZH": "ʒ",
}  # fmt: skip
"""Phone name to the character that stands for it in the talker's text."""

LETTER_SOUNDS: list[tuple[str, list[str]]] = [
    ("tion", ["SH", "AX", "N"]), ("sion", ["ZH", "AX", "N"]), ("ture", ["CH", "ER"]), ("ight", ["AY", "T"]),
    ("ough", ["AO"]), ("augh", ["AO"]), ("eigh", ["EY"]), ("tch", ["CH"]), ("dge", ["JH"]), ("sch", ["SH"]),
    ("ing", ["IH", "NG"]), ("all", ["AO", "L"]), ("igh", ["AY"]), ("ch", ["CH"]), ("sh", ["SH"]), ("th", ["TH"]),
    ("ph", ["F"]), ("wh", ["W"]), ("ck", ["K"]), ("ng", ["NG"]), ("qu", ["K", "W"]), ("kn", ["N"]), ("wr", ["R"]),
    ("ee", ["IY"]), ("ea", ["IY"]), ("oo", ["UW"]), ("ou", ["AW"]), ("ow", ["OW"]), ("ai", ["EY"]), ("ay", ["EY"]),
    ("oi", ["OY"]), ("oy", ["OY"]), ("au", ["AO"]), ("aw", ["AO"]), ("oa", ["OW"]), ("ie", ["IY"]), ("ei", ["EY"]),
    ("er", ["ER"]), ("ir", ["ER"]), ("ur", ["ER"]), ("ar", ["AA", "R"]), ("or", ["AO", "R"]), ("bb", ["B"]),
    ("cc", ["K"]), ("dd", ["D"]), ("ff", ["F"]), ("gg", ["G"]), ("ll", ["L"]), ("mm", ["M"]), ("nn", ["N"]),
    ("pp", ["P"]), ("rr", ["R"]), ("ss", ["S"]), ("tt", ["T"]), ("zz", ["Z"]), ("ce", ["S"]), ("ci", ["S", "IH"]),
    ("a", ["AE"]), ("b", ["B"]), ("c", ["K"]), ("d", ["D"]), ("e", ["EH"]), ("f", ["F"]), ("g", ["G"]), ("h", ["HH"]),
    ("i", ["IH"]), ("j", ["JH"]), ("k", ["K"]), ("l", ["L"]), ("m", ["M"]), ("n", ["N"]), ("o", ["OW"]), ("p", ["P"]),
    ("q", ["K"]), ("r", ["R"]), ("s", ["S"]), ("t", ["T"]), ("u", ["AH"]), ("v", ["V"]), ("w", ["W"]),
    ("x", ["K", "S"]), ("y", ["IY"]), ("z", ["Z"]),
]  # fmt: skip
"""Letter groups and their sound, longest first: a rough guess for words outside of the lexicon."""


def spelled(phones: Iterable[str]) -> str:
    """Phone names to the talker's characters. Raises KeyError for a name outside of :data:`PHONES`."""
    return "".join(PHONES[p] for p in phones)
