"""The journal of a session holds no more than the context, and lets go of what the session would let go of first."""

from __future__ import annotations

import numpy as np
import pytest

from engine.client import MAX_REWIND_UNITS, Chunk, Prefilled, Unit
from engine.serving import journal
from engine.serving.journal import Answered, FedUnit, Journal

LIMIT = 1_000


def feed(book: Journal, units: int, *, picture: bytes | None = None) -> None:
    for _ in range(units):
        prefilled = Prefilled(100 if picture else 40, 0, LIMIT, picture_tokens=60 if picture else 0)
        book.feed(Unit(np.zeros(16_000, np.int16), picture), prefilled)


def units(book: Journal) -> list[FedUnit]:
    return [entry for entry in book.entries if isinstance(entry, FedUnit)]


def answer(book: Journal, epoch: int) -> Answered:
    book.begin(given := Answered(epoch, speak=True))
    given.add(Chunk(epoch, 0, "One two three", np.zeros(3_000, np.int16), ((0, 0), (3, 1_000), (7, 2_000))))
    given.add(Chunk(epoch, 1, finish="stop"))
    return given


def test_pictures_go_first_and_the_oldest_of_them() -> None:
    book = Journal()
    feed(book, 15, picture=b"jpeg")
    assert sum(fed.tokens for fed in units(book)) <= LIMIT
    seen = [fed.unit.frame is not None for fed in units(book)]
    assert seen == sorted(seen)
    assert len(seen) == 15
    assert any(seen)


def test_then_the_oldest_units_and_answers_which_count_all_the_same() -> None:
    book = Journal()
    for epoch in range(1, 31):
        feed(book, 2)
        answer(book, epoch).settle(3_000, None)
    assert sum(fed.tokens for fed in units(book)) <= LIMIT
    kept = [entry.epoch for entry in book.entries if isinstance(entry, Answered)]
    assert kept[-1] == 30
    assert book.forgotten_answers + len(kept) == 30


def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_BYTES", 300_000)
    book = Journal()
    feed(book, 8, picture=b"j" * 100_000)
    assert all(fed.unit.frame is None for fed in units(book)[:-MAX_REWIND_UNITS])
    assert len(units(book)) == MAX_REWIND_UNITS, "what can be taken back is kept whatever it takes"


@pytest.mark.parametrize(
    ("samples", "read", "text"), [(3_000, None, "One two three"), (1_500, None, "One two"), (0, 0, ""), (900, 3, "One")]
)
def test_an_answer_is_remembered_as_far_as_it_was_heard(samples: int, read: int | None, text: str) -> None:
    book = Journal()
    given = answer(book, 1)
    assert given.as_remembered()["text"] == "One two three", "nobody has said yet how much was heard"
    assert book.unsettled(1) is given
    given.settle(samples, read)
    assert book.unsettled(1) is None
    remembered = given.as_remembered()
    assert (remembered["text"], remembered["samples"]) == (text, samples)
    assert all(start < samples for _, start in remembered["starts"])


def test_what_is_taken_back_leaves_the_journal_with_the_answer_after_it() -> None:
    book = Journal()
    feed(book, 1)
    answer(book, 1).settle(3_000, None)
    feed(book, 2)
    answer(book, 2).settle(0, 0)
    book.rewind(1)
    assert [type(entry) for entry in book.entries] == [FedUnit, Answered, FedUnit]
