"""What holds for every test: a run that is over ends, and says so if it cannot."""

from __future__ import annotations

import faulthandler
import os
import threading
import time

import pytest

#: From the end of the session to the end of the process; normal is well under a second.
EXIT_LIMIT_S = 30.0


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A thread or a lock left behind would hold the process for ever, and say nothing.

    The stacks are printed, and the process ends with the result that the tests had.
    A hang later still, in the interpreter's own finalization, ends as a failure.
    """
    stderr = os.dup(2)

    def watch() -> None:
        time.sleep(EXIT_LIMIT_S)
        os.write(stderr, b"\nthe process did not end by itself; its threads:\n")
        faulthandler.dump_traceback(stderr)
        os._exit(_status[-1])

    threading.Thread(target=watch, name="exit-watch", daemon=True).start()
    faulthandler.dump_traceback_later(2 * EXIT_LIMIT_S, exit=True, file=stderr)


_status = [1]


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remember the result for :func:`pytest_unconfigure`."""
    _status.append(int(exitstatus))
