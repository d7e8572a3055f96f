"""What a person says in the turns of one call, and what there is to see meanwhile."""

from __future__ import annotations

import random

from engine.mini.world import grammar
from engine.mini.world.scenes import Scene, ask, describe, random_scene


def spoken_conversation(source: random.Random) -> list[tuple[grammar.Turn, Scene | None]]:
    """Turns without the camera."""
    return [(turn, None) for turn in grammar.conversation(source, source.randint(2, 5))]


def told_conversation(source: random.Random) -> list[tuple[grammar.Turn, Scene | None]]:
    """Something is told, and most of what follows asks for it."""
    memory = grammar.Memory()
    turns = [grammar.tell(source, memory)]
    for _ in range(source.randint(1, 3)):
        turns.append(source.choices((grammar.recall, grammar.tell, grammar.turn), (6, 2, 2))[0](source, memory))
    return [(turn, None) for turn in turns]


def seen_turn(scene: Scene, source: random.Random) -> grammar.Turn:
    """A question about a picture."""
    heard, answer, looks = ask(scene, source)
    return grammar.Turn(heard, answer, "seeing", looks)


def shown_conversation(source: random.Random) -> list[tuple[grammar.Turn, Scene | None]]:
    """Turns with the camera on: questions about the picture, about the one before, and some about anything else."""
    scene, memory = random_scene(source), grammar.Memory()
    before: Scene | None = None
    turns: list[tuple[grammar.Turn, Scene | None]] = []
    for _ in range(source.randint(2, 4)):
        kind = source.random()
        if before is not None and kind < 0.15:
            heard = source.choice(("what was on camera before", "what did you see before"))
            turn = grammar.Turn(heard, describe(before).replace("I see", "I saw"), "seeing")
        elif before is not None and kind < 0.3:
            heard = source.choice(("did it change", "has it changed", "is it still the same"))
            answer = "No, it did not change." if describe(scene) == describe(before) else "Yes, it changed."
            turn = grammar.Turn(heard, answer, "seeing")
        elif kind < 0.5:
            turn = grammar.turn(source, memory)
            if turn.skill == "blind" or turn.heard in ("can you see me", "do you see me"):
                turn = grammar.arithmetic(source)
        elif kind < 0.62:
            turn = (grammar.tell if source.random() < 0.5 else grammar.recall)(source, memory)
        else:
            turn = seen_turn(scene, source)
        turns.append((turn, scene))
        before, scene = scene, (random_scene(source) if source.random() < 0.6 else scene)
    return turns
