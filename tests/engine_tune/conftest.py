"""Pictures of two things that mini has never seen, and conversations about them."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw


def house(chance: random.Random) -> Image.Image:
    picture, pen = _sheet(chance)
    x, y, side = chance.randint(20, 80), chance.randint(60, 100), chance.randint(70, 110)
    pen.rectangle((x, y, x + side, y + side), fill=_dark(chance))
    pen.polygon([(x - 10, y), (x + side // 2, y - side // 2), (x + side + 10, y)], fill=_dark(chance))
    return picture


def boat(chance: random.Random) -> Image.Image:
    picture, pen = _sheet(chance)
    x, y, side = chance.randint(20, 70), chance.randint(120, 160), chance.randint(90, 130)
    hull = [(x, y), (x + side, y), (x + side * 3 // 4, y + side // 3), (x + side // 4, y + side // 3)]
    pen.polygon(hull, fill=_dark(chance))
    pen.line((x + side // 2, y, x + side // 2, y - side * 4 // 5), fill=_dark(chance), width=6)
    return picture


THINGS = {"house": house, "boat": boat}


def write_data(folder: Path, name: str, each: int, seed: int) -> Path:
    """A file of conversations, ``each`` of either thing, in the published format."""
    chance, entries = random.Random(seed), []
    for number in range(each):
        for thing, draw in THINGS.items():
            file = f"{name}-{thing}-{number}.png"
            draw(chance).save(folder / file)
            answer = {"role": "assistant", "content": f"I see a {thing}."}
            messages = [{"role": "user", "content": "<image>\nwhat do you see"}, answer]
            entries.append({"id": f"{thing}-{number}", "image": file, "conversations": messages})
    path = folder / f"{name}.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def _sheet(chance: random.Random) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (224, 224), (chance.randint(225, 255),) * 3)
    return picture, ImageDraw.Draw(picture)


def _dark(chance: random.Random) -> tuple[int, int, int]:
    return chance.randint(0, 150), chance.randint(0, 150), chance.randint(0, 150)
