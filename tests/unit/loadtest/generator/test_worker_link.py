"""When a worker asks again for a share, and when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import aiohttp
import pytest
from yarl import URL

from loadtest.generator.link import Ask, Patience, join
from loadtest.generator.messages import Share

SHARE = Share(
    worker=0, num_workers=1, url="http://x", ca_file=None, workload={}, rate_scale=1.0, salt=0,
    timeout_s=1.0, tokenizer=None, traces={},
)  # fmt: skip
AWAY = aiohttp.ClientConnectionError("refused")


def refusal(status: int) -> aiohttp.ClientResponseError:
    request = aiohttp.RequestInfo(URL("http://x"), "POST", headers=None)  # type: ignore[arg-type]
    return aiohttp.ClientResponseError(request, (), status=status)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    async def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


def joined(answers: Sequence[Exception | Share], limit_s: float = 60.0) -> tuple[Share, float]:
    """What asking brings, the last answer again and again, and when."""
    left = list(answers)
    clock = Clock()

    async def ask(_path: str, _content: object, _answer: type[Share]) -> Share:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Share):
            return answer
        raise answer

    patience = Patience(limit_s, lambda: clock.now_s, clock.sleep)
    return asyncio.run(join(cast(Ask[Share], ask), patience)), clock.now_s


def test_a_coordinator_that_comes_later_is_waited_for() -> None:
    assert joined([AWAY, AWAY, AWAY, SHARE]) == (SHARE, 3.0)


def test_one_that_has_all_its_workers_is_asked_again() -> None:
    # Each answer counts: it is there, however long its run takes.
    assert joined([*[refusal(409)] * 100, *[AWAY] * 50, SHARE]) == (SHARE, 150.0)


def test_one_that_stays_away_is_given_up() -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        joined([AWAY])


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_ends_it_at_once(status: int) -> None:
    with pytest.raises(aiohttp.ClientResponseError, match=str(status)):
        joined([refusal(status), SHARE])


@pytest.mark.parametrize("answer", [AWAY, refusal(409)])
def test_without_patience_nothing_is_asked_twice(answer: Exception) -> None:
    with pytest.raises(aiohttp.ClientError):
        joined([answer, SHARE], limit_s=0)
