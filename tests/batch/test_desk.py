"""Calls are gathered into batches, and batches waited for, on a clock that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from msgspec import Raw
from playing import Loop

from outlast.batching import Batches, Pace, Place
from outlast.errors import BatchNotFetched, ModelFailure
from outlast.models import Reply, Request
from outlast.models.batches import custom_id

HOUR_S = 3_600.0


class Claude:
    """Takes batches, and ends each after a time."""

    def __init__(self, *, lasts_s: float = HOUR_S) -> None:
        self.sent: list[tuple[float, list[str]]] = []
        self.polls: list[float] = []
        self.downloads = 0
        self.lasts_s = lasts_s
        self.wrong: list[ModelFailure] = []
        self.lost: set[str] = set()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def no_batches(self) -> str:
        return ""

    async def call(self, request: Request, *, on_part: Any) -> Reply:
        raise AssertionError("not in a batch")

    async def send_batch(self, requests: Mapping[str, Request]) -> str:
        if self.wrong:
            raise self.wrong.pop(0)
        self.sent.append((self.now, list(requests)))
        return f"batch-{len(self.sent)}"

    async def batch_ended(self, batch_id: str) -> bool:
        self.polls.append(self.now)
        if self.wrong:
            raise self.wrong.pop(0)
        return self.now >= self.sent[int(batch_id[6:]) - 1][0] + self.lasts_s

    async def batch_results(self, batch_id: str) -> dict[str, Reply | ModelFailure]:
        self.downloads += 1
        names = self.sent[int(batch_id[6:]) - 1][1]
        return {name: reply(name) for name in names if name not in self.lost}


def reply(name: str) -> Reply:
    return Reply(content=Raw(b"[]"), stop_reason="end_turn", usage=Raw(b"{}"), message_id=name)


def request(number: int, *, size: int = 10) -> Request:
    return Request(
        run_id=f"r/{number}",
        ask_id="ask-1",
        call_id="ask-1.m1",
        attempt=1,
        model="m",
        max_tokens=1,
        head=b"x" * size,
        messages=[],
    )


def played(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test on a loop whose time jumps, and see that nothing is left behind on it."""
    loop = Loop()
    try:
        loop.run_until_complete(main())
        assert not asyncio.all_tasks(loop)
    finally:
        loop.close()


def test_what_comes_together_is_one_batch() -> None:
    """Calls that follow each other within the quiet time are one batch; a later one is another."""

    async def main() -> None:
        claude = Claude()
        batches = Batches(claude, Pace(quiet_s=1.0))

        async def at(second: float, number: int) -> Place:
            await asyncio.sleep(second)
            return await batches.submit(request(number))

        places = await asyncio.gather(at(0, 1), at(0.9, 2), at(1.8, 3), at(5, 4))
        assert [len(names) for _, names in claude.sent] == [3, 1]
        assert [when for when, _ in claude.sent] == pytest.approx([2.8, 6.0], abs=0.01)
        assert places[2] == Place("batch-1", custom_id("r/3", "ask-1.m1"))

    played(main)


def test_a_batch_is_sent_at_last() -> None:
    """Calls that never cease to come do not keep a batch from being sent."""

    async def main() -> None:
        claude = Claude()
        batches = Batches(claude, Pace(quiet_s=1.0, longest_s=9.8))

        async def at(second: float, number: int) -> Place:
            await asyncio.sleep(second)
            return await batches.submit(request(number))

        await asyncio.gather(*(at(number / 2, number) for number in range(40)))
        assert claude.sent[0][0] == pytest.approx(9.8, abs=0.01)
        assert [len(names) for _, names in claude.sent] == [20, 20]

    played(main)


def test_a_full_batch_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that has as many calls, or bytes, as one may have does not wait for more."""

    async def main() -> None:
        claude = Claude()
        batches = Batches(claude, Pace(quiet_s=50, longest_s=100, most=4))
        await asyncio.gather(*(batches.submit(request(number)) for number in range(8)))
        assert [(int(when), len(names)) for when, names in claude.sent] == [(0, 4), (0, 4)]
        monkeypatch.setattr("outlast.batching.MOST_BYTES", 25)
        batches.pace = Pace(quiet_s=1)
        await asyncio.gather(*(batches.submit(request(number)) for number in range(5)))
        assert [len(names) for _, names in claude.sent[2:]] == [2, 2, 1]

    played(main)


def test_what_is_given_up_is_not_sent() -> None:
    """A call whose leg ended before the batch was sent is not in it."""

    async def main() -> None:
        claude = Claude()
        batches = Batches(claude)
        given_up = asyncio.ensure_future(batches.submit(request(1)))
        kept = asyncio.ensure_future(batches.submit(request(2)))
        await asyncio.sleep(0.1)
        given_up.cancel()
        await kept
        assert [len(names) for _, names in claude.sent] == [1]

    played(main)


@pytest.mark.parametrize("kind", ["rate_limited", "unavailable"])
def test_a_batch_that_was_not_taken_fails_each_call(kind: Any) -> None:
    """Why a batch was not accepted is why each of its calls came to nothing."""

    async def main() -> None:
        claude = Claude()
        claude.wrong = [ModelFailure(kind, "no", status=429, retry_after_s=3)]
        batches = Batches(claude)
        came = await asyncio.gather(
            *(batches.submit(request(number)) for number in range(3)), return_exceptions=True
        )
        told = [(type(each), each.kind, each.retry_after_s) for each in came]  # type: ignore[union-attr]
        assert told == [(ModelFailure, kind, 3)] * 3
        assert len({id(each) for each in came}) == 3, "each has an exception of its own"

    played(main)


def test_one_poll_for_all_ever_less_often() -> None:
    """A batch is asked about once, whoever waits, soon at first and at last every ten minutes."""

    async def main() -> None:
        claude = Claude(lasts_s=4 * HOUR_S)
        batches = Batches(claude)
        places = await asyncio.gather(*(batches.submit(request(number)) for number in range(50)))
        replies = await asyncio.gather(*(batches.fetch(place) for place in places))
        assert [each.message_id for each in replies] == [place.custom_id for place in places]
        waits = [round(b - a, 2) for a, b in zip(claude.polls, claude.polls[1:], strict=False)]
        assert waits == sorted(waits)
        assert waits[0] == pytest.approx(1.5, abs=0.01)
        assert waits[-1] == pytest.approx(600, abs=0.01)
        assert len(claude.polls) < 4 * 6 + 30
        assert claude.downloads == 1

    played(main)


def test_who_comes_late_costs_no_download() -> None:
    """After a crash children come one by one; those that come after the end get theirs too."""

    async def main() -> None:
        claude = Claude(lasts_s=0)
        batches = Batches(claude)
        places = await asyncio.gather(*(batches.submit(request(number)) for number in range(3)))
        for place in places:
            assert (await batches.fetch(place)).message_id == place.custom_id
        assert claude.downloads == 1
        again = await batches.fetch(places[1])  # its first leg could not write it down
        assert (again.message_id, claude.downloads) == (places[1].custom_id, 2)

    played(main)


def test_a_result_that_is_missing_is_in_doubt() -> None:
    """A batch that ended without a result of a call may have billed it."""

    async def main() -> None:
        claude = Claude(lasts_s=0)
        batches = Batches(claude)
        one, other = await asyncio.gather(*(batches.submit(request(number)) for number in range(2)))
        claude.lost = {one.custom_id}
        with pytest.raises(ModelFailure, match="has no result of this call") as failed:
            await batches.fetch(one)
        assert failed.value.kind == "malformed"
        assert (await batches.fetch(other)).message_id == other.custom_id

    played(main)


def test_a_poll_that_fails_is_repeated() -> None:
    """An outage while a batch is waited for costs nothing but time."""

    async def main() -> None:
        claude = Claude(lasts_s=0)
        batches = Batches(claude)
        place = await batches.submit(request(1))
        claude.wrong = [
            ModelFailure("unavailable", "HTTP 503"),
            ModelFailure("rate_limited", "HTTP 429", retry_after_s=300),
            ModelFailure("cut", "reset"),
        ]
        began = claude.now
        await batches.fetch(place)
        assert len(claude.polls) == 4
        assert claude.now - began > 300

    played(main)


@pytest.mark.parametrize(
    ("kind", "polls"), [("auth", 1), ("not_found", 1), ("bug", 1), ("unavailable", 60)]
)
def test_what_does_not_pass_is_told(kind: Any, polls: int) -> None:
    """A key that is refused, or an outage that does not end, is nobody's result: it is raised."""

    async def main() -> None:
        claude = Claude(lasts_s=0)
        batches = Batches(claude)
        places = await asyncio.gather(*(batches.submit(request(number)) for number in range(2)))
        claude.wrong = [ModelFailure(kind, "no") for _ in range(60)]
        came = await asyncio.gather(*map(batches.fetch, places), return_exceptions=True)
        assert [type(each) for each in came] == [BatchNotFetched] * 2
        assert "nothing is sent again" in str(came[0])
        assert len(claude.polls) == polls
        claude.wrong = []
        assert (await batches.fetch(places[0])).message_id == places[0].custom_id

    played(main)


def test_a_batch_that_nobody_waits_for_is_not_polled() -> None:
    """When the legs that wait have ended, so have the polls; the next leg begins them again."""

    async def main() -> None:
        claude = Claude()
        batches = Batches(claude)
        place = await batches.submit(request(1))
        waits = [asyncio.ensure_future(batches.fetch(place)) for _ in range(1)]
        await asyncio.sleep(100)
        before = len(claude.polls)
        waits[0].cancel()
        await asyncio.sleep(2 * HOUR_S)
        assert len(claude.polls) == before
        assert (await batches.fetch(place)).message_id == place.custom_id

    played(main)


def clocked(claude: Claude, pace: Pace | None = None) -> Batches:
    """Return batches whose clock is that of the loop."""
    return Batches(claude, pace, clock=lambda: int(claude.now * 1e9))


def test_who_waits_is_told_when_the_next_look_is() -> None:
    """Who left comes back at no cost, is told at once, and shares the next look with others."""

    async def main() -> None:
        claude = Claude()
        batches = clocked(claude)
        places = await asyncio.gather(*(batches.submit(request(number)) for number in range(3)))
        told: list[int] = []
        first = asyncio.ensure_future(batches.fetch(places[0], later=told.append))
        await asyncio.sleep(100)
        first.cancel()
        looked = len(claude.polls)
        assert len(told) == looked
        assert told == sorted(told)
        next_s = told[-1] / 1e9
        again: list[int] = []
        left = [asyncio.ensure_future(batches.fetch(each, later=again.append)) for each in places]
        await asyncio.sleep(0.1)
        assert again == [told[-1]] * 3
        for each in left:
            each.cancel()
        await asyncio.sleep(next_s - claude.now)
        back = [asyncio.ensure_future(batches.fetch(each, later=again.append)) for each in places]
        await asyncio.sleep(2)
        assert len(claude.polls) == looked + 1
        assert len(again) == 6
        assert len(set(again)) == 2
        for each in back:
            each.cancel()
        await asyncio.sleep(1)

    played(main)


def test_a_look_that_nobody_waited_for_was_one() -> None:
    """Who leaves while the API is asked, and comes again, does not ask it again at once."""

    class Slow(Claude):
        async def batch_ended(self, batch_id: str) -> bool:
            ended = await super().batch_ended(batch_id)
            await asyncio.sleep(3)
            return ended

    async def main() -> None:
        claude = Slow()
        batches = clocked(claude)
        place = await batches.submit(request(1))
        for _ in range(20):
            waiting = asyncio.ensure_future(batches.fetch(place))
            await asyncio.sleep(2)
            waiting.cancel()
        await asyncio.sleep(1)
        assert len(claude.polls) < 9
        assert min(b - a for a, b in zip(claude.polls, claude.polls[1:], strict=False)) > 2.5

    played(main)


def test_the_age_of_a_batch_of_another_process() -> None:
    """Who comes to an old batch looks at once, and then as seldom as is right for its age."""

    async def main() -> None:
        claude = Claude()
        place = await clocked(claude).submit(request(1))
        await asyncio.sleep(HOUR_S / 2)
        told: list[int] = []
        fetching = clocked(claude).fetch(place, called_at=0, later=told.append)
        waiting = asyncio.ensure_future(fetching)
        await asyncio.sleep(2)
        assert len(claude.polls) == 1
        assert told[0] / 1e9 - claude.polls[0] == pytest.approx(450, abs=1)
        waiting.cancel()
        await asyncio.sleep(1)

    played(main)


def test_an_outage_is_one_however_often_they_come_back() -> None:
    """Looks that fail are counted though nobody waited in between."""

    async def main() -> None:
        claude = Claude()
        batches = clocked(claude, Pace(failures=5))
        place = await batches.submit(request(1))
        claude.wrong = [ModelFailure("unavailable", "no") for _ in range(9)]
        for _ in range(4):
            told: list[int] = []
            waiting = asyncio.ensure_future(batches.fetch(place, later=told.append))
            while not told:  # noqa: ASYNC110  (of another task)
                await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.sleep(told[-1] / 1e9 - claude.now)
        with pytest.raises(BatchNotFetched):
            await batches.fetch(place)
        assert len(claude.polls) == 5

    played(main)


def test_a_model_without_batches_says_so() -> None:
    """Nothing is sent with a model that cannot, and the failure is unbilled."""

    class Single:
        call = Claude.call

    async def main() -> None:
        batches = Batches(Single())  # type: ignore[arg-type]
        assert batches.flaw == "Single has no send_batch"
        with pytest.raises(ModelFailure, match="nothing was sent") as failed:
            await batches.submit(request(1))
        assert failed.value.kind == "not_found"

    played(main)
