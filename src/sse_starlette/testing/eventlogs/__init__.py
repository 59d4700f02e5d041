"""
The contract of event logs as tests: what every `Backend` keeps, whatever it is made of.

Whoever writes a `Backend` makes a class of `EventLogContract` in a module of tests, with a fixture
`make_log` in it, and has pytest run it. Needs pytest, besides the extra `testing`; knows no store.
"""

try:
    import pytest as _pytest
except ImportError as _missing:
    raise ImportError(
        "sse_starlette.testing.eventlogs is a suite for pytest: pip install pytest"
    ) from _missing

# For the tests in there to say what they found, as those in a file named test_… do.
_pytest.register_assert_rewrite(
    *(
        f"{__name__}.{part}"
        for part in ("_driving", "_keeping", "_leasing", "_listening", "_over_time")
    )
)

from ._driving import (  # noqa: E402
    KEEP_ALL,
    MakeLog,
    RecordingListener,
    append,
    listening,
    offsets,
    opened,
    read,
)
from ._keeping import KeepingContract  # noqa: E402
from ._leasing import LeaseContract  # noqa: E402
from ._listening import ListeningContract  # noqa: E402
from ._over_time import OverTimeContract  # noqa: E402

__all__ = [
    "KEEP_ALL",
    "EventLogContract",
    "EventLogContractOverTime",
    "LeaseContract",
    "MakeLog",
    "RecordingListener",
    "append",
    "listening",
    "offsets",
    "opened",
    "read",
]


class EventLogContract(KeepingContract, ListeningContract):
    """
    The suite; takes a second or two where the log is a quick one.

    A subclass, whose name begins with `Test`, has a fixture `make_log`: a function that returns one
    more `Backend` on the same store each time, as another process has one. The store is empty at the
    beginning of each test. `anyio_backend`, anyio's own fixture, says on which event loops it runs.
    """


class EventLogContractOverTime(EventLogContract, OverTimeContract):
    """
    The suite with what can't be shown in no time: how long things are kept. Takes half a minute.

    For a log that keeps its limits, and can `seek`.
    """
