"""A polite end of a run: a signal lets the step finish, and the trainer write a checkpoint, before the process leaves.

Batch systems send SIGTERM before they take a machine away, people press Ctrl-C. A second signal ends at once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Listens for `SIGNALS` inside a `with` block, and gives the handlers back after it.

    A signal that the process ignores (as one started with nohup does SIGINT) stays ignored, and a handler that was not
    set from Python, which could not be given back, stays where it is. Outside the main thread, where Python takes no
    handlers, it hears nothing.

    Attributes:
        name: of the signal that came, `SIGTERM` say; None as long as none did.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
