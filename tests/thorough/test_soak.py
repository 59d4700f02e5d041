"""The short form of `python -m tests.soak`: nothing is left of clients that came and went."""

from __future__ import annotations

import anyio
import pytest
from tests.soak.limiting import limit_holds
from tests.soak.soaking import SETTLED, soak


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(3))
async def test_limit_is_never_passed_and_no_slot_is_lost(seed: int) -> None:
    limited, visits = await limit_holds(20, 200, rounds=2, seed=seed)

    assert visits == 400
    assert limited.most == 20
    assert (limited.policy.open, limited.running) == (0, 0)
    assert limited.outcomes["refused"] > 0


def test_server_is_as_it_was_when_its_clients_have_gone() -> None:
    outcome = anyio.run(lambda: soak(connections=60, visits=3, stay_seconds=0.5))

    assert outcome.wrong == []
    assert {name: outcome.after[name] - outcome.before[name] for name in SETTLED} == dict.fromkeys(
        SETTLED, 0
    )
    assert outcome.after["begun"] == outcome.after["cleaned"]
    assert outcome.most["streams"] > 0
