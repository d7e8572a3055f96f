"""The walls of the house: which room may import which. docs/architecture.md draws the same floor plan."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


HOUSE = modules("app") | modules("engine")


def imports(name: str, *, at_run_time: bool = False) -> set[str]:
    """The modules that a module imports, of the house and others; with ``at_run_time`` without those that only a type
    checker reads, and without those inside of functions, which come after both sides are complete."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_run_time and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_for_types(node)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(inner & HOUSE.keys() or {node.module})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(HOUSE[name].read_text(encoding="utf-8")))
    return found


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("app", ("torch", "transformers", "tests")),
        ("app.call", ("aiohttp", "aiortc", "app.webrtc", "app.server", "app.replay", "engine.serving")),
        ("app.webrtc", ("aiohttp", "app.server", "app.replay")),
        ("app.replay", ("aiohttp", "aiortc", "app.webrtc", "app.server")),
        ("engine", ("app", "aiohttp", "aiortc", "tests")),
        ("engine.media", ("torch", "engine.model", "engine.processing", "engine.conversation", "engine.serving")),
        ("engine.model", ("engine.conversation", "engine.serving", "engine.chat", "engine.checkpoint")),
        ("engine.processing", ("engine.conversation", "engine.serving", "engine.chat", "engine.checkpoint")),
        ("engine.conversation", ("engine.serving", "engine.chat")),
        ("engine.chat.offline", ("engine.serving",)),
        ("engine.chat.prompt", ("engine.serving",)),
    ],
)
def test_a_room_stays_behind_its_walls(room: str, forbidden: tuple[str, ...]) -> None:
    rooms = [name for name in HOUSE if inside(name, room)]
    assert rooms
    crossings = {name: found for name in rooms if (found := [m for m in imports(name) if inside(m, *forbidden)])}
    assert not crossings


def test_nobody_imports_the_laboratories() -> None:
    for laboratory in ("engine.mini", "engine.small"):
        outside = [name for name in HOUSE if not inside(name, laboratory)]
        assert not [name for name in outside if any(inside(module, laboratory) for module in imports(name))]


def test_no_module_imports_itself_over_others() -> None:
    graph = {name: imports(name, at_run_time=True) & HOUSE.keys() for name in HOUSE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"an import circle: {' imports '.join(reversed(error.args[1]))}")


def test_no_two_classes_share_a_name() -> None:
    """One name for one thing: who reads ``Options`` must know which. Names that begin with an underscore are at home in
    their module."""
    homes: dict[str, list[str]] = {}
    for name, path in HOUSE.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    assert not {name: places for name, places in homes.items() if len(places) > 1}
