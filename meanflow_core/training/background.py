"""Writing to disk by one thread while the training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class BackgroundWriter:
    """One write at a time, in the order they were asked for. At the end of the block the last one is waited for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "writer")
        self._last: Future[None] | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Begin a write, once the one before has ended.

        Args:
            write: called in the thread; what it writes must not change meanwhile.

        Raises:
            OSError: whatever the write before raised.
        """
        self.finish()
        self._last = self._pool.submit(write)

    def check(self) -> None:
        """Raise what a write that has ended raised; one that is under way is not waited for."""
        if self._last is not None and self._last.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the write that is under way, and raise what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:  # what ended the training says more than what the disk says now
            self.finish()
