"""Answers that are less than what was asked for, and those that are found again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

import outlast
from outlast.events import StepFinished, ToolCallFailed, ToolCallGivenUp, ToolCallSucceeded
from outlast.models.script import last_text, say, tool_results, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking, results

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Shelf:
    """A source that may be down."""

    def __init__(self, *fallbacks: Any, **options: Any) -> None:
        self.down = False
        self.gives: Any = ["owls"]
        self.asked: list[str] = []

        @outlast.tool(effect="read", fallbacks=fallbacks, **options)
        def find(word: str) -> Any:
            """Find a word."""
            self.asked.append(word)
            if self.down:
                raise ConnectionError("the shelf is locked")
            return self.gives

        self.agent = agent(find)


def model() -> ScriptedModel:
    """Return a Claude that looks for whatever it is asked."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Done.")
        return say(tool_use("find", {"word": last_text(request)}))

    return ScriptedModel(script)


def result(claude: ScriptedModel) -> dict[str, Any]:
    """Return the last result that Claude was given."""
    return tool_results(msgspec.json.decode(claude.calls[-1]))[-1]


def texts(told: dict[str, Any]) -> list[str]:
    return [block["text"] for block in told["content"]]


# ── the last good answer ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_the_last_good_answer(store: str, tmp_path: Path) -> None:
    """Of a source that is down, the same call of an earlier run is answered as it was then."""
    url, claude = "memory://" if store == "memory" else f"sqlite:///{tmp_path}/s.db", model()
    shelf = Shelf(outlast.LastGood())
    with outlast.Outlast(url, model=claude) as app:
        first = app.run(shelf.agent, "owls", run_id="first")
        assert (first.status, first.degraded) == ("completed", False)
        (good,) = [r for r in app.log("first") if isinstance(r.event, ToolCallSucceeded)]
        shelf.down = True
        again = app.run(shelf.agent, "owls", run_id="again")
        assert (again.status, again.degraded) == ("completed", True)
        assert app.get("again").degraded
        note, answer = texts(result(claude))
        assert answer == '["owls"]'
        as_of = datetime.fromtimestamp(good.at // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert f"from the last good answer of find, as of {as_of}" in note
        other = app.run(shelf.agent, "bats", run_id="other")
        assert (other.status, other.degraded) == ("completed", False)
        assert result(claude)["is_error"] is True
        app.run(shelf.agent, "owls", run_id="stranger", tenant="acme")
        assert result(claude)["is_error"] is True, "what a tenant asked is nobody else's"


def test_a_degraded_answer_is_no_good_one() -> None:
    """What was degraded itself, or failed, is never given again as the last good answer."""
    claude, shelf = model(), Shelf(outlast.LastGood())
    with outlast.Outlast("memory://", model=claude) as app:
        shelf.gives = outlast.Degraded(["old owls"], source="attic")
        app.run(shelf.agent, "owls")
        shelf.down = True
        app.run(shelf.agent, "owls")
        assert result(claude)["is_error"] is True


def test_an_answer_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its `max_age` an answer is stale, and not given; the next source is asked."""

    def attic(word: str) -> list[str]:
        return [f"{word} in the attic"]

    claude, shelf = model(), Shelf(outlast.LastGood(max_age="1h"), attic)
    now = [1_790_000_000 * 10**9]
    with outlast.Outlast("memory://", model=claude) as app:
        for runner in (app._own, app._guest):
            monkeypatch.setattr(runner, "_clock", lambda: now[0])
        app.run(shelf.agent, "owls")
        shelf.down = True
        now[0] += 3_599 * 10**9
        app.run(shelf.agent, "owls", run_id="young")
        assert texts(result(claude))[1] == '["owls"]'
        now[0] += 2 * 10**9
        app.run(shelf.agent, "owls", run_id="old")
        note, answer = texts(result(claude))
        assert (answer, "from attic" in note) == ('["owls in the attic"]', True)
        classes = [
            r.event.error_class for r in app.log("old") if isinstance(r.event, ToolCallFailed)
        ]
    assert classes == ["unavailable", "stale"]


def test_an_empty_answer_is_an_answer() -> None:
    """A source that answers that nothing matched is believed, whatever it said before."""
    claude, shelf = model(), Shelf(outlast.LastGood())
    with outlast.Outlast("memory://", model=claude) as app:
        app.run(shelf.agent, "owls")
        shelf.gives = []
        run = app.run(shelf.agent, "owls", run_id="empty")
        told = result(claude)
        (event,) = [r.event for r in app.log("empty") if isinstance(r.event, ToolCallSucceeded)]
    assert (told["content"], "is_error" in told, run.degraded) == ("[]", False, False)
    assert event.empty


def test_an_empty_answer_may_be_declared_a_failure() -> None:
    """Where a source cannot be trusted to say that it is down, what is empty is none."""
    claude = model()
    shelf = Shelf(outlast.LastGood(), empty_is_failure=True)
    with outlast.Outlast("memory://", model=claude) as app:
        app.run(shelf.agent, "owls")
        for gives in ([], {}, "", None, ()):
            shelf.gives = gives
            run = app.run(shelf.agent, "owls")
            assert run.degraded, repr(gives)
            assert texts(result(claude))[1] == '["owls"]'
        bare = Shelf(empty_is_failure=True)
        bare.gives = []
        app.run(bare.agent, "owls", run_id="bare")
        assert result(claude)["is_error"] is True
        assert "is empty, which counts as a failure" in result(claude)["content"]


def test_a_kept_answer_that_is_empty_may_be_declared_a_failure() -> None:
    """What was an answer before it was declared a failure is not found again as one."""
    claude, before = model(), Shelf(outlast.LastGood())
    now = Shelf(outlast.LastGood(), empty_is_failure=True)
    with outlast.Outlast("memory://", model=claude) as app:
        before.gives = []
        app.run(before.agent, "owls", run_id="before")
        assert "is_error" not in result(claude)
        now.down = True
        assert app.run(now.agent, "owls", run_id="now").answer == "Done."
        assert result(claude)["is_error"] is True


def nothing() -> list[str]:
    return []


def test_a_fallback_that_is_a_tool_is_held_to_what_it_declares() -> None:
    """Its own `empty_is_failure` and `max_result_tokens` count, also where the tool has none."""
    claude = model()
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (nothing, {"empty_is_failure": True}, "every source failed"),
        (lambda: "x" * 1_000, {"max_result_tokens": 10}, "bytes are missing here"),
    ]
    for gives, options, told in cases:
        attic = outlast.tool(effect="read", name="attic", **options)(gives)
        shelf = Shelf(attic)
        shelf.down = True
        with outlast.Outlast("memory://", model=claude) as app:
            app.run(shelf.agent, "owls")
        assert told in str(result(claude)["content"])


def test_a_kept_answer_is_as_long_as_there_is_room_now() -> None:
    """One that was kept when more of it was shown is cut as any other is."""
    claude = model()
    before, now = Shelf(outlast.LastGood()), Shelf(outlast.LastGood(), max_result_tokens=10)
    with outlast.Outlast("memory://", model=claude) as app:
        before.gives = "x" * 1_000
        app.run(before.agent, "owls", run_id="before")
        now.down = True
        app.run(now.agent, "owls", run_id="now")
    assert "bytes are missing here" in texts(result(claude))[1]


def test_a_fallback_that_a_person_has_to_allow_is_refused() -> None:
    """Nobody is asked about a fallback, so one that needs it cannot be one; nor can an agent."""
    allowed = outlast.tool(effect="read", name="attic", approval="always")(lambda: ["owls"])
    with pytest.raises(outlast.InvalidTool, match="has approval=, and nobody is asked"):
        Shelf(allowed)
    with pytest.raises(outlast.InvalidTool, match="is an agent, which only Claude can ask"):
        Shelf(agent().as_tool())


@pytest.mark.parametrize("value", [None, {}, "down"], ids=repr)
def test_a_fallback_without_a_hint_is_held_to_that_of_the_tool(value: Any) -> None:
    """What does not say what it returns has to return what the tool promises."""

    @outlast.tool(effect="read", fallbacks=[lambda word: value])
    def find(word: str) -> list[str]:
        """Find a word."""
        raise ConnectionError

    claude = model()
    with outlast.Outlast("memory://", model=claude) as app:
        app.run(agent(find), "owls")
    assert result(claude)["is_error"] is True
    assert "every source failed" in result(claude)["content"]


def test_a_call_in_doubt_is_told_in_the_words_of_the_tool() -> None:
    """What a tool says of a call that may have happened is told, and that nobody knows."""

    @outlast.tool(effect="idempotent")
    def find(word: str) -> str:
        """Find a word."""
        raise outlast.ToolError("Ask again after 9.", error_class="unavailable")

    claude = model()
    with outlast.Outlast("memory://", model=claude) as app:
        app.run(agent(find), "owls")
    told = "Ask again after 9. The outcome is unknown: it may or may not have happened."
    assert (result(claude)["content"], result(claude)["is_error"]) == (told, True)


# ── degraded ────────────────────────────────────────────────────────────────────────────────────


def test_a_degraded_answer_says_what_it_lacks() -> None:
    """Source, time, note and every filter that was dropped are told, and journalled."""
    claude, shelf = model(), Shelf()
    shelf.gives = outlast.Degraded(
        ["owls"], source="attic", as_of=AT, note="half of it", dropped_filters=["max_usd"]
    )
    with outlast.Outlast("memory://", model=claude) as app:
        assert app.run(shelf.agent, "owls", run_id="r").degraded
        (event,) = [r.event for r in app.log("r") if isinstance(r.event, ToolCallSucceeded)]
    assert texts(result(claude)) == [
        (
            "[degraded answer: from attic, as of 2026-03-01T12:00:00Z; not filtered by max_usd; "
            "half of it. Say so in whatever you make of it.]"
        ),
        '["owls"]',
    ]
    assert event.degraded is not None
    assert (event.degraded.as_of, event.degraded.dropped) == (
        int(AT.timestamp()) * 10**9,
        ("max_usd",),
    )


def test_what_an_answer_lacks_may_be_anything() -> None:
    """Secrets, half a character, a name given once and megabytes are told, and cost no run."""
    claude, shelf = model(), Shelf()
    shelf.gives = outlast.Degraded(
        "owls",
        source="attic of KEY",
        note="n" * 5_000_000,
        dropped_filters=(name for name in ("KEY", "\ud800")),  # type: ignore[arg-type]
    )
    with outlast.Outlast("memory://", model=claude, redact=hidden) as app:
        assert app.run(shelf.agent, "owls", run_id="r").answer == "Done."
        (event,) = [r.event for r in app.log("r") if isinstance(r.event, ToolCallSucceeded)]
    told, answer = texts(result(claude))
    assert told.startswith("[degraded answer: from attic of ***, at a time that is not known; ")
    assert told.endswith("Say so in whatever you make of it.]")
    assert "not filtered by ***, ?" in told
    assert len(told) < 3_000
    assert answer == "owls"
    assert event.degraded is not None
    assert (event.degraded.source, event.degraded.dropped) == ("attic of ***", ("***", "?"))


def hidden(text: str) -> str:
    return text.replace("KEY", "***")


def test_a_degraded_image_is_shown() -> None:
    """What is not text stays what it is, behind the note."""
    claude, shelf = model(), Shelf()
    shelf.gives = outlast.Degraded(outlast.Image(b"\x89PNG\r\n\x1a\n"), source="attic")
    with outlast.Outlast("memory://", model=claude) as app:
        app.run(shelf.agent, "owls")
    assert [block["type"] for block in result(claude)["content"]] == ["text", "image"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": 3},
        {"note": None},
        {"as_of": datetime(2026, 3, 1)},  # noqa: DTZ001  (that is what is wrong)
        {"as_of": 1_790_000_000},
        {"as_of": datetime.max.replace(tzinfo=UTC)},
        {"as_of": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))},
        {"as_of": datetime(2262, 6, 1, tzinfo=UTC)},
        {"dropped_filters": "max_usd"},
        {"dropped_filters": [3]},
    ],
)
def test_what_cannot_be_told_rightly_is_refused(wrong: dict[str, Any]) -> None:
    """A time without a zone, or a filter without a name, would be told wrongly."""
    with pytest.raises(outlast.InvalidTool, match="Degraded"):
        outlast.Degraded([], **wrong)


def test_what_rests_on_a_degraded_answer_is_degraded() -> None:
    """A child's degraded answer degrades its parent, through a tool, a step and a flow."""
    shelf = Shelf()
    shelf.gives = outlast.Degraded(["owls"], source="attic")
    finder = shelf.agent

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Done.")
        tools = {tool["name"] for tool in request["tools"]}
        return say(
            tool_use("find" if "find" in tools else "ask_stub", GIVEN[bool("find" in tools)])
        )

    claude = ScriptedModel(script)

    def attic() -> outlast.Degraded[int]:
        return outlast.Degraded(7, source="attic")

    @outlast.flow
    async def by_child(run: outlast.Run) -> Any:
        return await run.map(finder, ["owls"])

    @outlast.flow
    async def by_step(run: outlast.Run) -> Any:
        return (await run.step("look", attic)).value

    with outlast.Outlast("memory://", model=claude) as app:
        parent = app.run(agent(finder.as_tool(name="ask_stub")), "Find owls.", run_id="parent")
        assert (parent.status, parent.degraded) == ("completed", True), parent.why
        for name, flow in (("child", by_child), ("step", by_step)):
            run = app.run(flow, run_id=name)
            assert (run.status, run.degraded) == ("completed", True), run.why
            (over,) = [r.event for r in app.log(name) if isinstance(r.event, StepFinished)]
            assert over.degraded


GIVEN = {True: {"word": "owls"}, False: {"question": "owls"}}


# ── what is tried again ─────────────────────────────────────────────────────────────────────────


def test_claude_hears_of_the_last_attempt() -> None:
    """A failure that passes costs no tokens: the function is called again, and Claude once."""
    failures = [ConnectionError("a"), TimeoutError("b")]

    @outlast.tool(effect="read", attempts=3)
    def find(word: str) -> str:
        """Find a word."""
        if failures:
            raise failures.pop(0)
        return "here"

    claude = ScriptedModel(asking(tool_use("find", {"word": "a"})))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(agent(find), "Go.", run_id="r")
        events = [record.event for record in app.log("r")]
    assert (run.status, run.turns, result(claude)["content"]) == ("completed", 2, "here")
    assert [e.error_class for e in events if isinstance(e, ToolCallFailed)] == [
        "unavailable",
        "timeout_after_sending",
    ]


def test_what_cannot_pass_goes_back_at_once() -> None:
    """Arguments that are refused are Claude's to mend, with the words of the tool."""
    called = []

    @outlast.tool(effect="read", attempts=5, fallbacks=[lambda word: "elsewhere"])
    def find(word: str) -> str:
        """Find a word."""
        called.append(word)
        raise outlast.ToolError("say it in English", error_class="invalid_arguments")

    claude = ScriptedModel(asking(tool_use("find", {"word": "a"})))
    with outlast.Outlast("memory://", model=claude) as app:
        assert app.run(agent(find), "Go.", run_id="r").status == "completed"
        (given_up,) = [r.event for r in app.log("r") if isinstance(r.event, ToolCallGivenUp)]
    assert called == ["a"]
    assert (result(claude)["content"], result(claude)["is_error"]) == ("say it in English", True)
    assert (given_up.error_class, given_up.attempts) == ("invalid_arguments", 1)


def test_a_long_wait_is_no_work(tmp_path: Path) -> None:
    """A source that wants to be left alone for long parks the run; it is asked again in time."""
    asked: list[str] = []

    @outlast.tool(effect="read", attempts=2)
    def find(word: str) -> str:
        """Find a word."""
        asked.append(word)
        if len(asked) == 1:
            raise outlast.ToolError("later", error_class="rate_limited", retry_after_s=30)
        return "here"

    claude = ScriptedModel(asking(tool_use("find", {"word": "a"})))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(agent(find), "Go.", run_id="r", wait_s=0)
        assert (run.status, len(asked)) == ("parked", 1)
        assert run.why.startswith("find failed, and is tried again at ")
        assert run.wake_at is not None
        left_s = run.wake_at / 1e9 - datetime.now(UTC).timestamp()
        assert 20 < left_s <= 30


# ── what may have happened ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("effect", ["once", "idempotent"])
@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (ConnectionRefusedError("nobody there"), True),
        (outlast.ToolError("no", error_class="auth"), True),
        (ConnectionResetError("cut"), False),
        (TimeoutError("late"), False),
        (ValueError("a bug"), False),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_may_have_happened_goes_no_further(
    effect: Any,
    error: Exception,
    goes_on: bool,  # noqa: FBT001
) -> None:
    """Another source would do it twice, so it is asked only where nothing happened."""
    sent: list[str] = []

    def by_fax(to: str) -> str:
        sent.append(to)
        return "sent by fax"

    @outlast.tool(effect=effect, fallbacks=[by_fax])
    def send(to: str) -> str:
        """Send it."""
        raise error

    claude = ScriptedModel(asking(tool_use("send", {"to": "ann"})))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(agent(send), "Go.", run_id="r", wait_s=1)
    assert sent == (["ann"] if goes_on else [])
    is_open = effect == "once" and isinstance(error, OSError) and not goes_on
    assert run.status == ("waiting" if is_open else "completed"), run.why
    if not goes_on and not is_open:
        assert result(claude)["is_error"] is True
        assert "It may or may not have happened" in result(claude)["content"]


def test_async_tools_recover_too() -> None:
    """Coroutine functions are tried again, and fall back, as others do."""

    async def attic(word: str) -> str:
        await asyncio.sleep(0)
        return "in the attic"

    @outlast.tool(effect="read", attempts=2, fallbacks=[attic])
    async def find(word: str) -> str:
        """Find a word."""
        raise ConnectionError("down")

    claude = ScriptedModel(asking(tool_use("find", {"word": "a"})))
    with outlast.Outlast("memory://", model=claude) as app:
        assert app.run(agent(find), "Go.").degraded
    assert texts(result(claude))[1] == "in the attic"


# ── what looks after a call ───────────────────────────────────────────────────────────────────


class Odd:
    """What has no JSON schema."""


ODD = Odd()


def shelved(x: int, odd: Odd = ODD) -> list[str]:
    return [f"{x} from the shelf"]


def found(x: int, odd: Odd = ODD) -> bool:
    return True


def test_a_plain_fallback_may_take_whatever_has_a_default():
    """Claude never calls it, so its type hints need no schema: an outage would find them wrong."""

    @outlast.tool(effect="read", fallbacks=[shelved])
    def look(x: int) -> list[str]:
        raise ConnectionError

    claude = ScriptedModel(asking(tool_use("look", {"x": 1})))
    with outlast.Outlast("memory://", model=claude) as app:
        assert app.run(agent(look), "Go.").status == "completed"
    assert "1 from the shelf" in str(results(claude)[0]["content"])


def test_a_fallback_that_cannot_be_called_is_found_at_the_beginning():
    """One that is a tool is refused before a run begins, not in an outage."""

    @outlast.tool(effect="read")
    def second(odd: Odd = ODD) -> list[str]:
        return []

    @outlast.tool(effect="read", fallbacks=[second])
    def look(x: int) -> list[str]:
        return []

    claude = ScriptedModel(asking())
    with (
        outlast.Outlast("memory://", model=claude) as app,
        pytest.raises(outlast.InvalidTool, match="'second': a parameter's type has no JSON"),
    ):
        app.run(agent(look), "Go.")
    assert not claude.calls


def test_the_class_of_last_good_answers_is_no_fallback():
    """Its instances are; called as a function it would give itself as an answer."""
    with pytest.raises(outlast.InvalidTool, match=r"give LastGood\(max_age=…\)"):
        outlast.tool(effect="read", fallbacks=[outlast.LastGood], name="x")(shelved)


def test_a_fallback_in_doubt_is_asked_for_by_its_own_function():
    """With the arguments that it was called with, also where it takes fewer than its tool."""

    @outlast.tool(effect="once", reconcile=found)
    def second(x: int) -> str:
        raise TimeoutError

    @outlast.tool(effect="once", fallbacks=[second])
    def first(x: int, y: int = 1) -> str:
        raise ConnectionRefusedError

    claude = ScriptedModel(asking(tool_use("first", {"x": 1, "y": 2})))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(agent(first), "Go.")
    assert run.status == "completed", run.why


@pytest.mark.parametrize("effect", ["once", "idempotent"])
def test_what_was_done_before_is_no_answer(effect: Any) -> None:
    """The last good answer of a tool that acts would tell that it was done again."""
    with pytest.raises(outlast.InvalidTool, match="LastGood is for tools that are 'read'"):
        outlast.tool(effect=effect, name="act", fallbacks=[outlast.LastGood()])(lambda: None)
