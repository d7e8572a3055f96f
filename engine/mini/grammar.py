"""What a person may say to mini and what it answers: a generator of turns and of short conversations.

A turn is what was heard (spoken words, lower case, no punctuation) and the answer (as shown and spoken). Skills that
need the camera are in :mod:`engine.mini.scenes`; here is all that can be answered from words and memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from engine.mini.vocabulary import (
    COLOURS,
    COMMANDS,
    DIGITS,
    LETTERS,
    MONTHS,
    NAMES,
    NOUNS,
    ORDINALS,
    TENS,
    UNITS,
    WEEKDAYS,
    WORDS,
    number,
    split,
)

NOT_UNDERSTOOD = "Sorry, I did not understand."


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer. ``skill`` names the row of the accuracy table it counts in."""

    heard: str
    answer: str
    skill: str


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
    lead = rng.choice(("", "", "what is ", "what is ", "what's ", "how much is ", "calculate ", "tell me "))
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

SMALL_TALK: dict[str, tuple[tuple[str, ...], str]] = {
    "hello": (
        (
            "hello",
            "hi",
            "hi there",
            "hello there",
            "hey",
            "good morning",
            "good evening",
            "good afternoon",
            "hello mini",
            "hey mini",
            "good day",
        ),
        "Hello! How can I help you?",
    ),
    "how are you": (
        (
            "how are you",
            "how are you doing",
            "how are you today",
            "how do you do",
            "how is it going",
            "are you okay",
            "how do you feel",
            "hello how are you",
            "hi how are you",
        ),
        "I am fine, thank you.",
    ),
    "your name": (
        (
            "what is your name",
            "what's your name",
            "who are you",
            "tell me your name",
            "do you have a name",
            "how are you called",
            "may i know your name",
            "please tell me your name",
        ),
        "My name is Mini.",
    ),
    "abilities": (
        (
            "what can you do",
            "what are you able to do",
            "what can i ask you",
            "how can you help me",
            "what do you know",
            "what can i say",
            "help me",
            "can you help me",
            "what are your skills",
        ),
        "I can repeat words, calculate, count, look and remember.",
    ),
    "hear me": (
        (
            "can you hear me",
            "do you hear me",
            "are you listening",
            "are you there",
            "is my microphone working",
            "hello can you hear me",
            "can you hear me now",
            "do you listen",
        ),
        "Yes, I can hear you.",
    ),
    "thanks": (
        (
            "thank you",
            "thanks",
            "thank you very much",
            "thanks a lot",
            "many thanks",
            "thank you so much",
            "okay thank you",
            "great thank you",
        ),
        "You are welcome.",
    ),
    "goodbye": (
        (
            "goodbye",
            "bye",
            "bye bye",
            "see you",
            "see you later",
            "good night",
            "see you tomorrow",
            "talk to you later",
            "have a nice day",
            "i have to go",
        ),
        "Goodbye! Have a nice day.",
    ),
    "joke": (
        (
            "tell me a joke",
            "do you know a joke",
            "make me laugh",
            "say something funny",
            "another joke",
            "tell me something funny",
            "can you tell me a joke",
            "please tell me a joke",
        ),
        "Why did the computer sneeze? It had a virus.",
    ),
    "old": (
        ("how old are you", "what is your age", "when were you born", "are you old", "tell me your age"),
        "I am very young.",
    ),
    "robot": (
        (
            "are you a robot",
            "are you human",
            "are you a machine",
            "are you real",
            "what are you",
            "are you a person",
            "are you a computer",
        ),
        "I am a small computer model.",
    ),
    "live": (
        ("where do you live", "where are you", "where are you from", "where is your home", "where do you come from"),
        "I live in this computer.",
    ),
    "made": (
        ("who made you", "who built you", "who created you", "who is your maker", "where were you trained"),
        "I was trained from scratch on a computer.",
    ),
    "language": (
        (
            "what languages do you speak",
            "do you speak english",
            "which language do you speak",
            "can you speak english",
            "do you speak german",
            "do you speak chinese",
        ),
        "I speak only English.",
    ),
    "weather": (
        (
            "how is the weather",
            "what is the weather like",
            "is it raining",
            "what is the weather today",
            "will it rain today",
            "is it cold outside",
        ),
        "I do not know the weather.",
    ),
    "time": (
        (
            "what time is it",
            "what is the time",
            "can you tell me the time",
            "tell me the time",
            "do you know what time it is",
            "what day is it",
            "what day is today",
            "what is the date today",
        ),
        "I do not have a clock.",
    ),
    "like me": (
        (
            "do you like me",
            "do you love me",
            "are you my friend",
            "can we be friends",
            "i like you",
            "i love you",
            "you are nice",
            "you are my friend",
        ),
        "I like talking with you.",
    ),
    "sing": (("sing a song", "can you sing", "sing me a song", "please sing", "sing something"), "La la la."),
    "story": (
        ("tell me a story", "can you tell me a story", "please tell me a story", "do you know a story"),
        "Once there was a little computer that learned to listen.",
    ),
    "good": (
        (
            "you are great",
            "well done",
            "very good",
            "good job",
            "great",
            "excellent",
            "that is right",
            "that was good",
            "you are smart",
            "you are clever",
            "that is correct",
        ),
        "Thank you!",
    ),
    "bad": (
        (
            "you are wrong",
            "that is wrong",
            "that was wrong",
            "no that is wrong",
            "you are stupid",
            "that is not right",
            "this is not correct",
        ),
        "I am sorry. Please try again.",
    ),
    "yes": (("yes please", "okay", "all right", "sure", "of course", "yeah"), "Okay."),
    "no": (("no thank you", "not now", "no thanks", "nope", "never mind"), "All right."),
    "stop": (
        ("stop it", "be quiet", "stop talking", "please stop", "shut up", "quiet please"),
        "Okay, I will be quiet.",
    ),
    "sorry": (("sorry", "i am sorry", "excuse me", "pardon me", "my apologies"), "No problem."),
    "colour": (
        (
            "what is your favorite color",
            "what color do you like",
            "do you have a favorite color",
            "which color do you like best",
        ),
        "My favorite color is blue.",
    ),
    "food": (
        (
            "what do you like to eat",
            "are you hungry",
            "do you eat",
            "what is your favorite food",
            "what did you eat today",
        ),
        "I do not eat. I need only power.",
    ),
    "sleep": (("do you sleep", "are you tired", "do you dream", "when do you sleep"), "I never sleep."),
    "busy": (
        ("what are you doing", "are you busy", "what are you doing now", "what do you do"),
        "I am listening to you.",
    ),
    "meet": (
        ("nice to meet you", "pleased to meet you", "glad to meet you", "good to see you"),
        "Nice to meet you too.",
    ),
    "fine": (
        ("i am fine", "i am good", "i am fine thank you", "i am happy", "i feel good", "i am very well"),
        "I am glad to hear that.",
    ),
    "unwell": (
        ("i am sad", "i am tired", "i feel bad", "i am sick", "i am not well", "i am angry"),
        "I am sorry to hear that.",
    ),
    "wait": (
        ("wait", "wait a moment", "one moment please", "just a second", "hold on", "wait a minute"),
        "I am waiting.",
    ),
    "ready": (("are you ready", "can we start", "shall we begin", "let us begin", "let's start"), "I am ready."),
    "test": (("this is a test", "testing", "just a test", "test test", "microphone test"), "The test works."),
    "louder": (
        ("speak louder", "can you speak louder", "i can not hear you", "i can't hear you"),
        "Please turn up the volume.",
    ),
}
"""Intent: its wordings, and the one answer to all of them."""


def small_talk(rng: random.Random) -> Turn:
    intent = rng.choice(list(SMALL_TALK))
    wordings, answer = SMALL_TALK[intent]
    return Turn(rng.choice(wordings), answer, "smalltalk")


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
    from engine.mini.vocabulary import SHAPES

    question = rng.choice(SEEING_QUESTIONS).format(shape=rng.choice(SHAPES), colour=rng.choice(COLOURS))
    return Turn(question, NO_CAMERA, "blind")


# --- memory --------------------------------------------------------------------------------------------------------


def tell(rng: random.Random, memory: Memory) -> Turn:
    """The person tells something to keep."""
    kind = rng.randrange(3)
    if kind == 0:
        memory.name = rng.choice(NAMES)
        lead = rng.choice(("my name is", "my name is", "i am", "i'm", "call me", "hello my name is", "hello i am"))
        return Turn(f"{lead} {memory.name}", f"Nice to meet you, {memory.name.capitalize()}.", "memory")
    if kind == 1:
        memory.number = number(rng.choice((rng.randint(0, 20), rng.randint(0, 99))))
        lead = rng.choice(("remember the number", "please remember the number", "my number is", "keep the number",
                           "my lucky number is", "the number is"))  # fmt: skip
        return Turn(f"{lead} {memory.number}", f"I will remember the number {memory.number}.", "memory")
    memory.word = rng.choice(NOUNS + COLOURS)
    lead = rng.choice(("remember the word", "please remember the word", "the word is", "the secret word is"))
    return Turn(f"{lead} {memory.word}", f"I will remember the word {memory.word}.", "memory")


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


def strange(rng: random.Random) -> Turn:
    """Fluent speech outside of everything above."""
    out = [rng.choice(STRANGE_WORDS) if rng.random() < 0.75 else rng.choice(WORDS) for _ in range(rng.randint(3, 9))]
    out[rng.randrange(len(out))] = rng.choice(STRANGE_WORDS)
    return Turn(" ".join(out), NOT_UNDERSTOOD, "ood")


# --- conversations -------------------------------------------------------------------------------------------------

SKILLS: tuple[tuple[Callable[[random.Random], Turn], float], ...] = (
    (dictation, 44), (arithmetic, 16), (counting, 7), (small_talk, 18), (blind, 3), (strange, 6),
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


def lexicon_words() -> list[str]:
    """Every word that can be heard or said, sorted: the vocabulary of the tokenizers and of the pronunciations."""
    rng = random.Random(0)
    seen: set[str] = set(WORDS + NAMES + LETTERS + UNITS + TENS + ORDINALS + MONTHS + WEEKDAYS + COMMANDS)
    seen.update(STRANGE_WORDS)
    for wordings, answer in SMALL_TALK.values():
        seen.update(" ".join((*wordings, plain(answer))).split())
    for _ in range(20_000):
        made = turn(rng, Memory(name="anna", number="one", word="apple", last="one"))
        seen.update(f"{made.heard} {plain(made.answer)}".split())
    return sorted(seen)


def plain(text: str) -> str:
    """Lower case without punctuation: how an answer is scored and pronounced."""
    return "".join(c for c in text.lower() if c.isalnum() or c in " '")
