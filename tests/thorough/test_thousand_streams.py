"""A thousand streams, a hundred at a time, leave the process as it was."""

from __future__ import annotations

import pytest
from tests.unit.nothing_left import nothing_is_left, streams_leave_nothing


@pytest.mark.anyio
async def test_thousand_streams_leave_no_task_hook_or_registry_entry() -> None:
    with nothing_is_left():
        await streams_leave_nothing(rounds=10, at_a_time=100)
