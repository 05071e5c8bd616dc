"""Ctrl-C and SIGTERM as a wish to stop, which the loop grants between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_IMPATIENT = 1.0
"""s. Launchers repeat the signal that the terminal has sent already; a person's second Ctrl-C comes later than that."""


class Interrupted(KeyboardInterrupt):
    """The run was stopped from outside and has saved its state; ``signal`` says by what."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number
        self.message = message


class StopRequest:
    """While entered, the first signal is remembered; a second Ctrl-C after a moment interrupts at once, unsaved.

    Attributes:
        signal: number of the signal that came; 0: none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._time = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not allow handlers
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT and time.monotonic() - self._time > _IMPATIENT:
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self._time = number, time.monotonic()
