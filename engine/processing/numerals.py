"""Figures as they are read aloud in English: 1,250 → "one thousand two hundred and fifty"."""

from __future__ import annotations

import re

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
CURRENCIES = {"$": "dollar", "£": "pound", "€": "euro"}
SIGNS = {
    "%": " percent", "&": " and ", "+": " plus ", "=": " equals ", "@": " at ", "#": " number ", "°": " degrees ",
    "×": " times ", "÷": " divided by ",
}  # fmt: skip

LONGEST = 15
"""Figures of a number that is read as one; more are read one by one."""

MONEY = re.compile(r"([$£€])\s?([0-9][0-9,]*)(?:\.([0-9]{2}))?")
TIME = re.compile(r"\b([01]?[0-9]|2[0-3]):([0-5][0-9])\b")
ORDINAL = re.compile(r"\b([0-9][0-9,]*)(?:st|nd|rd|th)\b")
DECADE = re.compile(r"\b([0-9]{1,3}0)s\b")
NUMBER = re.compile(r"([0-9][0-9,]*)(?:\.([0-9]+))?")
BETWEEN = (
    (re.compile(r"(?<=[0-9])\s*[-−–]\s*(?==|[0-9]+\s*=)"), " minus "),
    (re.compile(r"(?<=[0-9])\s+[-−–]\s+(?=[0-9])"), " minus "),
    (re.compile(r"(?<=[0-9])\s*[*x]\s*(?=[0-9])"), " times "),
    (re.compile(r"(?<=[0-9])\s*/\s*(?=[0-9])"), " over "),
    (re.compile(r"(?<![0-9A-Za-z])[-−](?=[0-9])"), " minus "),
)
"""Signs that are read only next to figures."""


def cardinal(number: int) -> str:
    """The words of a whole number from 0 up."""
    for scale, name in SCALES:
        if number >= scale:
            head, rest = divmod(number, scale)
            return f"{cardinal(head)} {name}" + (f" {cardinal(rest)}" if rest else "")
    if number >= 100:
        head, rest = divmod(number, 100)
        return f"{UNITS[head]} hundred" + (f" and {cardinal(rest)}" if rest else "")
    if number >= 20:
        head, rest = divmod(number, 10)
        return TENS[head] + (f" {UNITS[rest]}" if rest else "")
    return UNITS[number]


def ordinal(number: int) -> str:
    """The words of a place in an order."""
    *head, last = cardinal(number).split()
    named = ORDINALS.get(last, f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return " ".join([*head, named])


def year(number: int) -> str:
    """The words of a year of four figures; one such as 2005 is read as a number."""
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    tail = "hundred" if rest == 0 else f"oh {UNITS[rest]}" if rest < 10 else cardinal(rest)
    return f"{cardinal(century)} {tail}"


def _whole(figures: str) -> str:
    plain = figures.replace(",", "")
    if len(plain) > LONGEST or (len(plain) > 1 and plain[0] == "0"):
        return " ".join(UNITS[int(figure)] for figure in plain)
    if len(figures) == 4 and 1100 <= int(plain) < 2100:
        return year(int(plain))
    return cardinal(int(plain))


def _decade(found: re.Match[str]) -> str:
    said = _whole(found[1])
    return f" {said[:-1]}ies " if said.endswith("y") else f" {said}s "


def _number(found: re.Match[str]) -> str:
    whole, fraction = found[1], found[2]
    pause = "," if whole.endswith(",") else ""
    said = _whole(whole.rstrip(","))
    if fraction and not pause:
        said += " point " + " ".join(UNITS[int(figure)] for figure in fraction)
    return f" {said}{pause} "


def _money(found: re.Match[str]) -> str:
    name, whole = CURRENCIES[found[1]], int(found[2].replace(",", ""))
    pause = "," if found[2].endswith(",") else ""
    said = f" {cardinal(whole)} {name}{'' if whole == 1 else 's'}"
    return f"{said}{f' {cardinal(int(found[3]))}' if found[3] and int(found[3]) else ''}{pause} "


def _time(found: re.Match[str]) -> str:
    hour, minute = int(found[1]), int(found[2])
    tail = "o'clock" if minute == 0 else f"oh {UNITS[minute]}" if minute < 10 else cardinal(minute)
    return f" {cardinal(hour)} {tail} "


def read_aloud(text: str) -> str:
    """``text`` with every figure and sign in words; what holds none comes back as it is."""
    if text.isascii() and not re.search(r"[0-9%&+=@#]", text):
        return text
    for pattern, word in BETWEEN:
        text = pattern.sub(word, text)
    text = ORDINAL.sub(lambda found: f" {ordinal(int(found[1].replace(',', '')))} ", text)
    text = DECADE.sub(_decade, text)
    text = NUMBER.sub(_number, TIME.sub(_time, MONEY.sub(_money, text)))
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    return text
