"""What can be asked and answered by rule: sums, what comes before and after, and what is more."""

from __future__ import annotations

import random
from collections.abc import Callable

from engine.small.measure.judge import TENS, UNITS

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip
LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
BY_SIZE = ["ant", "bee", "mouse", "cat", "dog", "sheep", "pig", "horse", "truck", "house", "mountain"]
BY_WEIGHT = ["leaf", "pencil", "apple", "book", "chair", "bicycle", "piano", "bus", "ship"]
BY_SPEED = ["snail", "turtle", "hen", "runner", "horse", "train", "rocket"]
COUNTED = ["balls", "books", "coins", "pears", "stamps", "pencils", "flowers", "cards", "eggs", "toys"]


def in_words(number: int) -> str:
    """0 to 999, as it is said."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        rest = number % 10
        return TENS[number // 10 - 2] + (f"-{UNITS[rest]}" if rest else "")
    rest = number % 100
    return f"{UNITS[number // 100]} hundred" + (f" and {in_words(rest)}" if rest else "")


def sum_of(rng: random.Random) -> tuple[str, str]:
    """A sum as it is asked and its answer, which repeats it in digits: the model works it out while it writes."""
    return rng.choices([_plain_sum, _story, _neighbour], [8, 2, 1])[0](rng)


def _plain_sum(rng: random.Random) -> tuple[str, str]:
    kind = rng.choices(["plus", "minus", "times", "divided by"], [5, 4, 4, 2])[0]
    if kind == "plus":
        a, b = (rng.randint(1, rng.choice([10, 20, 60])) for _ in range(2))
        result = a + b
        ways = ["what is {a} plus {b}?", "{a} plus {b}?", "how much is {a} and {b}?", "what's {a} plus {b}?",
                "please add {a} and {b}.", "add {b} to {a}.", "what is the sum of {a} and {b}?", "calculate {a} + {b}.",
                "tell me what {a} plus {b} is.", "do you know what {a} plus {b} makes?"]  # fmt: skip
    elif kind == "minus":
        b, result = (rng.randint(0, rng.choice([9, 20, 50])) for _ in range(2))
        a = b + result
        ways = ["what is {a} minus {b}?", "{a} minus {b}?", "what's {a} minus {b}?", "subtract {b} from {a}.",
                "how much is {a} less {b}?", "take {b} from {a}.", "what remains if I take {b} away from {a}?",
                "calculate {a} - {b}.", "tell me {a} minus {b}."]  # fmt: skip
    elif kind == "times":
        a, b = rng.randint(1, 12), rng.randint(2, 10)
        result = a * b
        ways = ["what is {a} times {b}?", "{a} times {b}?", "what's {a} times {b}?", "multiply {a} by {b}.",
                "how much is {a} multiplied by {b}?", "what is {a} x {b}?", "calculate {a} times {b}."]  # fmt: skip
    else:
        b, result = rng.randint(2, 10), rng.randint(1, 10)
        a = b * result
        ways = ["what is {a} divided by {b}?", "{a} divided by {b}?", "how often does {b} go into {a}?",
                "share {a} between {b}.", "what's {a} over {b}?"]  # fmt: skip
        if b == 2:
            ways += ["what is half of {a}?", "how much is half of {a}?"]
    write: Callable[[int], str] = in_words if rng.random() < 0.6 else str
    asked = rng.choice(ways).format(a=write(a), b=write(b))
    return asked, f"{a} {kind} {b} is {result}."


def _story(rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(COUNTED)
    write: Callable[[int], str] = in_words if rng.random() < 0.7 else str
    a, b = rng.randint(3, 20), rng.randint(1, 9)
    if rng.random() < 0.5:
        way = rng.choice([
            "I have {a} {t} and get {b} more. How many {t} do I have now?",
            "Tom has {a} {t} and finds {b} more. How many does he have?",
            "there are {a} {t} in a box and I put in {b}. How many are in it?",
        ])  # fmt: skip
        return way.format(a=write(a), b=write(b), t=thing), f"{a} plus {b} is {a + b}, so {a + b} {thing}."
    a = max(a, b + 1)
    way = rng.choice([
        "I have {a} {t} and give away {b}. How many {t} do I still have?",
        "Lisa has {a} {t} and loses {b}. How many does she have left?",
        "there are {a} {t} on the table and I take {b}. How many remain?",
    ])  # fmt: skip
    return way.format(a=write(a), b=write(b), t=thing), f"{a} minus {b} is {a - b}, so {a - b} {thing}."


def _neighbour(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(2, 98)
    write: Callable[[int], str] = in_words if rng.random() < 0.6 else str
    kind = rng.randrange(4)
    if kind == 0:
        return f"which number comes after {write(number)}?", f"{number + 1} comes after {number}."
    if kind == 1:
        return f"which number comes before {write(number)}?", f"{number - 1} comes before {number}."
    other = number + rng.choice([-1, 1]) * rng.randint(1, 30)
    if kind == 2 and other > 0:
        way = rng.choice(["what is more, {} or {}?", "which number is bigger, {} or {}?"])
        return way.format(write(number), write(other)), f"{max(number, other)} is bigger than {min(number, other)}."
    word = "even" if rng.random() < 0.5 else "odd"
    right = (number % 2 == 0) == (word == "even")
    truth = "even" if number % 2 == 0 else "odd"
    return f"is {write(number)} an {word} number?", f"{'Yes' if right else 'No'}, {number} is {truth}."


def order(rng: random.Random) -> tuple[str, str]:
    """What comes before or after: days, months, letters."""
    row, noun = rng.choice([(DAYS, "day"), (MONTHS, "month"), (LETTERS, "letter")])
    at = rng.randrange(1, len(row) - 1)
    if rng.random() < 0.5:
        ask = rng.choice(["which {n} follows {x}?", "what {n} is after {x}?", "tell me the {n} after {x}."])
        return ask.format(n=noun, x=row[at]), f"{row[at + 1]} comes after {row[at]}."
    ask = rng.choice(["what {n} is before {x}?", "tell me the {n} before {x}."])
    return ask.format(n=noun, x=row[at]), f"{row[at - 1]} comes before {row[at]}."


def counting(rng: random.Random) -> tuple[str, str]:
    """Counting up or down."""
    first, size = rng.randint(1, 12), rng.randint(3, 6)
    numbers = list(range(first, first + size))
    ask = rng.choice(["count from {} to {}.", "please count from {} to {}.", "can you count from {} up to {}?"])
    if rng.random() < 0.4:
        numbers.reverse()
        ask = "count down from {} to {}."
    write: Callable[[int], str] = str if rng.random() < 0.4 else in_words
    return ask.format(write(numbers[0]), write(numbers[-1])), ", ".join(map(str, numbers)) + "."


def comparison(rng: random.Random) -> tuple[str, str]:
    """Which of two things is more of something."""
    row, more, less = rng.choice([
        (BY_SIZE, "bigger", "smaller"), (BY_WEIGHT, "heavier", "lighter"), (BY_SPEED, "faster", "slower"),
    ])  # fmt: skip
    low, high = sorted(rng.sample(range(len(row)), 2))
    pair = [row[low], row[high]]
    one, other = rng.sample(pair, 2)
    way = rng.choice(["what is {w}, {a} or {b}?", "is {a} {w} than {b}?"])
    upward = rng.random() < 0.6
    word, winner, loser = (more, pair[1], pair[0]) if upward else (less, pair[0], pair[1])
    asked = way.format(w=word, a=_a(one), b=_a(other))
    said = f"{_a(winner)} is {word} than {_a(loser)}."
    if not asked.startswith("what"):
        said = f"Yes, {said}" if one == winner else f"No, {said}"
    return asked, said[0].upper() + said[1:]


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
