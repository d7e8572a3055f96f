"""What a person may say to mini and what it answers: a generator of turns and of short conversations.

A turn is what was heard (spoken words, lower case, no punctuation) and the answer (as shown and spoken). Skills that
need the camera are in :mod:`engine.mini.world.scenes`; here is all that can be answered from words and memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from engine.mini.world.everyday import everyday_sentence
from engine.mini.world.scenes import Looks
from engine.mini.world.small_talk import SMALL_TALK
from engine.mini.world.vocabulary import (
    COLOURS,
    COMMANDS,
    DIGITS,
    LETTERS,
    MONTHS,
    NAMES,
    NOUNS,
    ORDINALS,
    WEEKDAYS,
    WORDS,
    number,
    split,
)

NOT_UNDERSTOOD = "Sorry, I did not understand."


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer. ``skill`` names the row of the accuracy table it counts in; ``looks`` are the words
    of the answer that are read from the picture, in order, each with the number of the picture token that says it;
    ``over``: whether the person is done, rather than in the middle of a sentence."""

    heard: str
    answer: str
    skill: str
    looks: Looks = ()
    over: bool = True


@dataclass(slots=True)
class Memory:
    """What was told to the model in this call, so that later turns can be asked about it."""

    name: str | None = None
    number: str | None = None
    word: str | None = None
    last: str | None = None
    facts: list[str] = field(default_factory=list)


def sentence(text: str) -> str:
    """``three plus four is seven`` to ``Three plus four is seven.``"""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".?!" else ".")


# --- dictation -----------------------------------------------------------------------------------------------------


def spoken_number(rng: random.Random) -> str:
    """A number as people say it: digits, tens, pairs, hundreds."""
    kind = rng.random()
    if kind < 0.35:
        return " ".join(rng.choice(DIGITS) for _ in range(rng.randint(1, 3)))
    if kind < 0.75:
        return number(rng.randint(10, 99))
    if kind < 0.9:
        return number(rng.randint(1, 9)) + " " + number(rng.randint(20, 99))
    return number(rng.randint(100, 999))


def digits(rng: random.Random) -> str:
    out = [rng.choice(DIGITS) for _ in range(rng.choice((1, 1, 2, 3, 3, 4, 5, 6, 7)))]
    if rng.random() < 0.4:
        out = ["oh" if d == "zero" else d for d in out]
    return " ".join(out)


def letters(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return " ".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 7)))
    return " ".join(rng.choice(NAMES + WORDS)[:8])


def mixed(rng: random.Random) -> str:
    """Commands with letters and numbers, as read out to a machine."""
    parts = [rng.choice(COMMANDS)] if rng.random() < 0.75 else []
    for _ in range(rng.randint(0, 2) if parts else rng.randint(1, 3)):
        parts.append(rng.choice((letters, spoken_number, spoken_number, digits))(rng))
    return " ".join(" ".join(parts).split()[:9])


def date(rng: random.Random) -> str:
    day = rng.randint(1, 31)
    if day <= 20:
        ordinal = ORDINALS[day - 1]
    else:
        ordinal = {30: "thirtieth"}.get(day, ("thirty " if day > 30 else "twenty ") + ORDINALS[day % 10 - 1])
    month = rng.choice(MONTHS)
    year = ""
    kind = rng.random()
    if kind < 0.45:
        year = " nineteen " + number(rng.randint(10, 99))
    elif kind < 0.6:
        year = " twenty " + number(rng.randint(10, 30))
    form = rng.random()
    if form < 0.6:
        text = f"{month} {ordinal}{year}"
    elif form < 0.75:
        text = f"{month} {number(day)}{year}"
    elif form < 0.9:
        text = f"the {ordinal} of {month}{year}"
    else:
        text = f"{rng.choice(WEEKDAYS)} {month} {ordinal}"
    return text


def words(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5))))


def dictation(rng: random.Random) -> Turn:
    text = rng.choices((digits, letters, mixed, date, words, spoken_number), (24, 20, 18, 11, 15, 12))[0](rng)
    if text in ("hello", "thanks"):
        text = f"{text} {rng.choice(DIGITS)}"
    heard = text if rng.random() < 0.93 else f"{rng.choice(('repeat after me', 'please say'))} {text}"
    return Turn(heard, sentence(f"you said {text}"), "dictation")


# --- arithmetic and counting ---------------------------------------------------------------------------------------


def arithmetic(rng: random.Random) -> Turn:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    op = rng.choice(("plus", "minus", "times"))
    if op == "times" and rng.random() < 0.6:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
    value = {"plus": a + b, "minus": a - b, "times": a * b}[op]
    spoken = "multiplied by" if op == "times" and rng.random() < 0.1 else op
    lead = rng.choice(("", "", "", "what is ", "what is ", "what is ", "what's ", "what's ", "how much is ",
                       "calculate ", "tell me ", "please calculate ", "can you calculate ", "can you tell me what is ",
                       "do you know what is ", "and what is "))  # fmt: skip
    return Turn(
        f"{lead}{number(a)} {spoken} {number(b)}",
        sentence(f"{number(a)} {op} {number(b)} is {number(value)}"),
        "arithmetic",
    )


def counting(rng: random.Random) -> Turn:
    a, b = sorted(rng.sample(range(21), 2))
    b = min(b, a + 10)
    please = rng.choice(("", "", "please ", "can you "))
    kind = rng.random()
    if kind < 0.35:
        b = rng.randint(2, 12)
        heard = rng.choice((f"count to {number(b)}", f"count up to {number(b)}", f"count from one to {number(b)}"))
        values = list(range(1, b + 1))
    elif kind < 0.65:
        heard, values = f"count from {number(a)} to {number(b)}", list(range(a, b + 1))
    elif kind < 0.85:
        a = rng.randint(2, 12)
        heard = rng.choice((f"count down from {number(a)}", f"count backwards from {number(a)}"))
        values = list(range(a, 0, -1))
    else:
        heard, values = f"count {rng.choice(('', 'down '))}from {number(b)} to {number(a)}", list(range(b, a - 1, -1))
    return Turn(please + heard, sentence(" ".join(map(number, values))), "counting")


# --- small talk ----------------------------------------------------------------------------------------------------

POLITE_BEGINNINGS = ("hello", "okay", "please", "hey mini", "hello mini", "excuse me", "hi")
POLITE_ENDINGS = ("please", "mini", "today", "now", "my friend")


def small_talk(rng: random.Random) -> Turn:
    """One intent in one of its wordings, some with a polite word more."""
    intent = rng.choice(list(SMALL_TALK))
    wordings, answer = SMALL_TALK[intent]
    heard, kind = rng.choice(wordings), rng.random()
    if kind < 0.12:
        heard = f"{rng.choice(POLITE_BEGINNINGS)} {heard}"
    elif kind < 0.2:
        heard = f"{heard} {rng.choice(POLITE_ENDINGS)}"
    return Turn(heard, answer, "smalltalk")


NO_CAMERA = "I cannot see you. The camera is off."
SEEING_QUESTIONS = (
    "what do you see", "can you see me", "what color is the {shape}", "what color is this", "what shape is this",
    "what shape is the {colour} one", "how many shapes are there", "how many {shape}s do you see",
    "where is the {shape}", "which number is this", "which letter is this", "what number do you see",
    "what letter do you see", "is it light or dark", "what is in front of you", "do you see me", "look at this",
    "what am i holding", "is it dark",
)  # fmt: skip


def blind(rng: random.Random) -> Turn:
    """A question for the camera while there is no picture."""
    from engine.mini.world.vocabulary import SHAPES

    question = rng.choice(SEEING_QUESTIONS).format(shape=rng.choice(SHAPES), colour=rng.choice(COLOURS))
    return Turn(question, NO_CAMERA, "blind")


# --- memory --------------------------------------------------------------------------------------------------------


def tell_name(rng: random.Random, memory: Memory) -> Turn:
    """The person says who is calling."""
    memory.name = rng.choice(NAMES)
    lead = rng.choice(("my name is", "my name is", "i am", "i'm", "call me", "hello my name is", "hello i am"))
    return Turn(f"{lead} {memory.name}", f"Your name is {memory.name.capitalize()}.", "memory")


def tell(rng: random.Random, memory: Memory) -> Turn:
    """The person tells something to keep. It is confirmed in the words that will answer the question for it: what was
    once said rightly only has to be said again."""
    kind = rng.randrange(3)
    if kind == 0:
        return tell_name(rng, memory)
    if kind == 1:
        memory.number = number(rng.choice((rng.randint(0, 20), rng.randint(0, 99))))
        lead = rng.choice(("remember the number", "please remember the number", "my number is", "keep the number",
                           "my lucky number is", "the number is"))  # fmt: skip
        return Turn(f"{lead} {memory.number}", f"The number is {memory.number}.", "memory")
    memory.word = rng.choice(NOUNS + COLOURS)
    lead = rng.choice(("remember the word", "please remember the word", "the word is", "the secret word is"))
    return Turn(f"{lead} {memory.word}", f"The word is {memory.word}.", "memory")


def recall(rng: random.Random, memory: Memory) -> Turn:
    """The person asks for what was told."""
    kinds = [k for k, told in enumerate((memory.name, memory.number, memory.word, memory.last)) if told]
    kind = rng.choice(kinds) if kinds and rng.random() < 0.85 else rng.randrange(4)
    if kind == 0:
        heard = rng.choice(("what is my name", "what's my name", "who am i", "do you know my name",
                            "do you remember my name", "tell me my name", "what did i say my name was"))  # fmt: skip
        answer = f"Your name is {memory.name.capitalize()}." if memory.name else "You did not tell me your name."
    elif kind == 1:
        heard = rng.choice(("what number did i tell you", "what was the number", "what was my number",
                            "which number did i tell you", "do you remember the number", "what is my number",
                            "tell me the number", "which number should you remember"))  # fmt: skip
        answer = f"The number is {memory.number}." if memory.number else "You did not tell me a number."
    elif kind == 2:
        heard = rng.choice(("what was the word", "what word did i tell you", "which word did i tell you",
                            "do you remember the word", "what is the secret word", "tell me the word"))  # fmt: skip
        answer = f"The word is {memory.word}." if memory.word else "You did not tell me a word."
    else:
        heard = rng.choice(("what did i say", "what did i just say", "repeat that", "say that again",
                            "can you repeat that", "what did you hear"))  # fmt: skip
        answer = sentence(f"you said {memory.last}") if memory.last else "You did not say anything yet."
    return Turn(heard, answer, "memory")


# --- what is not understood ----------------------------------------------------------------------------------------

STRANGE_WORDS = split(
    "government policy economic parliament investment strategy committee electronic philosophy university "
    "temperature expansion religious traffic according department although industry constitution particular "
    "evidence financial hospital insurance knowledge legislation manufacturer nevertheless opportunity population "
    "quality recognition significant technology unemployment various whether yesterday's analysis behaviour "
    "chemical democratic employment fundamental geography historical independent judgement literature management "
    "negotiation organisation performance quarterly relationship scientific transport understanding violence "
    "because between through against however therefore without among several those which while these would could "
    "should might their there where every further enough almost during before after under about"
)

ASKED_WORDS = split("before there where which should after has still same change changed colour things crosses")
"""Words of questions that are among the strange ones too, or that :mod:`engine.mini.world.known_words` does not come
upon."""


def strange(rng: random.Random) -> Turn:
    """Fluent speech outside of everything above."""
    out = [rng.choice(STRANGE_WORDS) if rng.random() < 0.75 else rng.choice(WORDS) for _ in range(rng.randint(3, 9))]
    out[rng.randrange(len(out))] = rng.choice(STRANGE_WORDS)
    return Turn(" ".join(out), NOT_UNDERSTOOD, "ood")


_ONSETS = split(
    "b br bl c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sc sh sk sl sm sn sp st str t th tr v w y z"
)
_NUCLEI = split("a e i o u ai ea ee oa oo ou ar er or ur au ie")
_CODAS = ["", "", "", *split("b ck d f g l ll m n nd ng nk nt p r s sh ss st t th x ve ze ld lt mp")]


def invented(rng: random.Random) -> Turn:
    """Speech in words that do not exist, some real ones between them: everything that the lists above lack."""

    def word() -> str:
        syllables = (rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(rng.randint(1, 4)))
        made = "".join(syllables)
        return made if made not in WORDS else word()

    out = [word() if rng.random() < 0.6 else rng.choice(STRANGE_WORDS + WORDS) for _ in range(rng.randint(2, 8))]
    out[rng.randrange(len(out))] = word()
    return Turn(" ".join(out), NOT_UNDERSTOOD, "ood")


def everyday(rng: random.Random, *, judge: bool = False) -> Turn:
    """A sentence of everyday life that mini knows nothing about; with ``judge``, one that is kept apart."""
    text, intent = everyday_sentence(rng, judge=judge)
    return Turn(text, SMALL_TALK[intent][1] if intent else NOT_UNDERSTOOD, "everyday")


# --- conversations -------------------------------------------------------------------------------------------------

SKILLS: tuple[tuple[Callable[[random.Random], Turn], float], ...] = (
    (dictation, 44), (arithmetic, 16), (counting, 7), (small_talk, 18), (blind, 3), (strange, 6),
    (everyday, 12),
)  # fmt: skip


def turn(rng: random.Random, memory: Memory | None = None) -> Turn:
    """One turn of any skill; with a ``memory``, the memory skill too, and what was said is kept in it."""
    memory = memory if memory is not None else Memory()
    kind = rng.random()
    if kind < 0.12:
        return tell(rng, memory)
    if kind < 0.24:
        return recall(rng, memory)
    made = rng.choices([s for s, _ in SKILLS], [w for _, w in SKILLS])[0](rng)
    memory.last = made.heard if made.skill == "dictation" else memory.last
    return made


def answer_to(text: str) -> Turn | None:
    """The turn of an utterance that stands for itself; None for what needs memory or the camera."""
    for wordings, answer in SMALL_TALK.values():
        if text in wordings:
            return Turn(text, answer, "smalltalk")
    return _known_turns().get(text) or _dictated(text)


def _dictated(text: str) -> Turn | None:
    words = text.split()
    if any(w in STRANGE_WORDS for w in words):
        return Turn(text, NOT_UNDERSTOOD, "ood")
    if words[0] in (
        "what",
        "what's",
        "how",
        "where",
        "which",
        "who",
        "is",
        "do",
        "can",
        "tell",
        "look",
        "count",
        "my",
        "remember",
        "please",
        "calculate",
        "call",
        "i",
        "i'm",
        "hello",
        "the",
        "keep",
        "repeat",
        "did",
        "say",
    ):
        return None  # fmt: skip
    if any(w in ("plus", "minus", "times", "multiplied", "count") for w in words):
        return None
    return Turn(text, sentence(f"you said {text}"), "dictation")


@lru_cache(maxsize=1)
def _known_turns() -> dict[str, Turn]:
    """Arithmetic and counting in all their wordings (those that a long draw meets)."""
    rng = random.Random(3)
    made = [arithmetic(rng) for _ in range(40_000)] + [counting(rng) for _ in range(8_000)]
    return {turn.heard: turn for turn in made}


def conversation(rng: random.Random, turns: int) -> list[Turn]:
    """``turns`` turns of one call; later ones may ask about earlier ones."""
    memory = Memory()
    return [turn(rng, memory) for _ in range(turns)]


def plain(text: str) -> str:
    """Lower case without punctuation: how an answer is scored and pronounced."""
    return "".join(c for c in text.lower() if c.isalnum() or c in " '")
