"""What needs how much memory, as the documents say it."""

from __future__ import annotations

from pathlib import Path

from engine.bench.memory import rows, table

FAMILY = Path(__file__).parents[2] / "docs" / "family.md"


def test_the_documents_have_the_table_that_is_computed() -> None:
    assert table(8_192) in FAMILY.read_text(encoding="utf-8"), "run python -m engine.bench.memory"


def test_the_large_models_find_room_in_nine_gigabytes() -> None:
    needs = {(row[0].split(",")[0], row[1]): float(row[4]) for row in rows(8_192)}
    assert all(size < 9.5 for (_, weights), size in needs.items() if weights == "int4")
    assert all(needs[model, "int4"] < needs[model, "int8"] < needs[model, "bf16"] for model, _ in needs)
