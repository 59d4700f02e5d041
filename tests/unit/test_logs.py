"""The log in memory that other tests use keeps the contract of a log, so what they show is true."""

from __future__ import annotations

import pytest
from tests.unit.leasing import LeasingFakeLog
from tests.unit.logs import FakeLog, FakeStore

from sse_starlette.testing.eventlogs import EventLogContract, LeaseContract, MakeLog


class TestFakeLog(EventLogContract):
    @pytest.fixture
    def make_log(self) -> MakeLog:
        store = FakeStore()
        return lambda: FakeLog(store)


class TestLeasingFakeLog(LeaseContract):
    @pytest.fixture
    def make_log(self) -> MakeLog:
        store = FakeStore()
        return lambda: LeasingFakeLog(store)
