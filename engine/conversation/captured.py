"""Steps that are recorded once and repeated: CUDA graphs, where there is a card; elsewhere a step is just called.

A step reads and writes static tensors only, so that a recording is right for whoever has the rows. Recordings are made
one by one in the background, those for the smallest number of sessions first; until a step has one, it is called. Those
of one kind share a pool of memory, which is counted, and are never repeated side by side.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

UNROLLED = 4
"""Steps of the longer recording of each kind; what is left of a block is made of single ones."""

PAUSE_S = 0.05
"""Between two recordings, so that nobody waits for more than one of them."""

Key = tuple[str, int, int, object]
"""Kind of step, its rows, its keys or codes, and whatever else decides what is launched."""

log = logging.getLogger(__name__)


class GraphRecorder:
    """The recordings of one kind of step."""

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled and device.type == "cuda"
        self.lock = threading.Lock()
        """Held by who uses the static tensors: for a block, or for a recording."""
        self.nbytes = 0
        """Memory that the recordings hold."""
        self._device = device
        self._wanted: dict[tuple[Key, int], tuple[Callable[[], None], Callable[[], None]]] = {}
        self._graphs: dict[tuple[Key, int], Any] = {}
        self._kinds: set[object] = set()
        self._pool: Any = None

    def news(self, *kind: object) -> bool:
        """Whether a kind of step comes for the first time, and is worth to be recorded."""
        if not self.enabled or kind in self._kinds:
            return False
        self._kinds.add(kind)
        return True

    def expect(self, key: Key, step: Callable[[], None], idle: Callable[[], None], *, unrolled: bool = True) -> None:
        """Have ``step`` recorded when there is time. ``idle`` makes its rows nobody's, so that a step changes nothing
        that counts."""
        for count in (1, UNROLLED) if unrolled else (1,):
            self._wanted[key, count] = step, idle

    def run(self, key: Key, step: Callable[[], None], count: int = 1) -> None:
        """Launch ``count`` steps."""
        for size in (UNROLLED, 1):
            graph = self._graphs.get((key, size))
            while graph is not None and count >= size:
                graph.replay()
                count -= size
        for _ in range(count):
            step()

    def forget(self) -> None:
        """The static tensors were made anew."""
        self._graphs.clear()
        self._wanted.clear()
        self._kinds.clear()

    @torch.inference_mode()
    def record_next(self) -> bool:
        """Make one more recording; False if there is none to make."""
        with self.lock:
            if not self._wanted:
                return False
            wanted = min(self._wanted, key=lambda entry: (entry[0][1], entry[0][2], entry[1]))
            step, idle = self._wanted.pop(wanted)
            try:
                self._graphs[wanted] = self._record(step, idle, wanted[1])
            except RuntimeError as error:  # of memory, or of a kernel that cannot be recorded
                log.warning("the step %s stays unrecorded: %s", wanted[0], error)
            if not self._wanted:
                log.info("%d recordings of steps hold %.0f MB", len(self._graphs), self.nbytes / 1e6)
        return True

    def _record(self, step: Callable[[], None], idle: Callable[[], None], count: int) -> Any:
        device = self._device
        before = torch.cuda.memory_reserved(device)
        side = torch.cuda.Stream(device)
        with torch.cuda.device(device), torch.cuda.stream(side):
            idle()
            step()  # chooses kernels and workspaces, which a recording cannot
            side.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads go on launching.
            with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                for _ in range(count):
                    step()
        self._pool = graph.pool()
        self.nbytes += max(0, torch.cuda.memory_reserved(device) - before)
        return graph


def record_in_background(recorders: Sequence[GraphRecorder], stopped: threading.Event) -> None:
    """Make all recordings that are expected, and those that will be, until ``stopped``: for a thread of its own."""
    while not stopped.wait(PAUSE_S):
        if not any(recorder.record_next() for recorder in recorders):
            stopped.wait(1.0)
