"""Failures are injected: none reaches Claude without a mark, and no answer gets one."""

from __future__ import annotations

import gc
import random
import re
from collections import Counter
from typing import Any

import msgspec
import pytest

import outlast
from outlast.models.script import Turn, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import agent, results
from tools.grants import AS_OF, FOUND, NOTHING, Kit, Server, kits, serving

pytestmark = [
    pytest.mark.usefixtures("no_pauses"),
    # Clients that are reset, or give up, leave their sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

MARK = re.compile(
    r"\[degraded answer: from (?P<source>[^,]+), (?P<as_of>as of [-0-9]+T[:0-9]+Z|"
    r"at a time that is not known)(?:; not filtered by (?P<dropped>[^;.]+))?(?:; (?P<note>[^.]+))?"
    r"\. Say so in whatever you make of it\.\]"
)
USES = 12
"""How many tools Claude uses in one reply."""


class World:
    """Runs of an agent that has all the tools, and what their results were compared with."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.kits = {kit.name: kit for kit in kits(server)}
        self.good: dict[tuple[str, int], str] = {}
        """What the tools themselves answered before, by tool and case."""
        self.counts: Counter[str] = Counter()
        self.claude = ScriptedModel(self.say, check_history=False, keep_calls=True)
        self.uses: list[tuple[str, int]] = []
        self.app = outlast.Outlast("memory://", model=self.claude)
        self.agent = agent(*(kit.tool for kit in self.kits.values()))

    def say(self, request: dict[str, Any], attempt: int) -> Turn:
        if turn_number(request) > 1:
            return say("That is all.")
        given = [tool_use(name, {"case": case, "max_usd": 10}) for name, case in self.uses]
        return say(*given)

    def play(self, draw: random.Random) -> None:
        """Use some tools at once, each for one of a few cases, and compare every result."""
        names = draw.sample(sorted(self.kits), USES)
        self.uses = [(name, draw.randrange(4)) for name in names]
        before = {key: len(did) for key, did in self.server.did.items()}
        run = self.app.run(self.agent, f"Go {self.counts['runs']}.")
        assert run.status == "completed", run.why
        self.counts["runs"] += 1
        told = results(self.claude)
        assert len(told) == USES
        degraded = [
            self.compare(self.kits[name], case, result, before)
            for (name, case), result in zip(self.uses, told, strict=True)
        ]
        assert run.degraded is any(degraded)

    def compare(self, kit: Kit, case: int, result: dict[str, Any], before: Any) -> bool:
        """Compare a result with what the server did; return whether it is degraded."""
        did = {
            source: self.server.did[source, case][before.get((source, case), 0) :]
            for source in kit.sources
        }
        self.counts["failures"] += sum(not kit.legit(w) for all_ in did.values() for w in all_)
        for what in did[kit.name]:
            self.counts[what] += 1
        answered = [one for one, done in did.items() if done and kit.legit(done[-1])]
        content, shown = result["content"], f"{kit.name} {case}: {did} -> {result}"
        if result.get("is_error"):
            assert not answered, shown
            assert (kit.name, case) not in self.good or not kit.keeps, shown
            assert content.strip(), shown
            self.counts["told as errors"] += 1
            return False
        if isinstance(content, list):
            self.compare_degraded(kit, case, content, answered, shown)
            self.counts["told as degraded"] += 1
            return True
        # It is told without any mark, so the tool itself has to have answered just that.
        assert answered == [kit.name], shown
        assert kit.sources[1:] == [] or not any(did[one] for one in kit.sources[1:]), shown
        what = did[kit.name][-1]
        self.counts[f"told as {what}"] += 1
        if what == NOTHING:
            assert content == "[]", shown
        else:
            assert msgspec.json.decode(content) == [{"name": f"{kit.name}-{case}", "usd": case}]
        self.good[kit.name, case] = content
        return False

    def compare_degraded(
        self, kit: Kit, case: int, content: Any, answered: list[str], shown: str
    ) -> None:
        """Compare what is told before an answer with where the answer is from."""
        assert kit.name not in answered, shown
        mark = MARK.fullmatch(content[0]["text"])
        assert mark is not None, shown
        said = "".join(block["text"] for block in content[1:])
        if mark["source"] == f"the last good answer of {kit.name}":
            assert kit.keeps, shown
            assert not answered, shown
            assert said == self.good[kit.name, case], shown
            assert mark["as_of"].startswith("as of 20"), shown
            assert mark["dropped"] is None, shown
            return
        (source,) = answered
        kind = source.removeprefix(f"{kit.name}-")
        assert mark["source"] == {"tool": source, "dated": "the mirror"}.get(kind, kind), shown
        assert mark["dropped"] == ("max_usd" if kind in {"fewer", "dated"} else None), shown
        when = f"as of {AS_OF:%Y-%m-%dT%H:%M:%SZ}" if kind == "dated" else None
        assert mark["as_of"] == (when or "at a time that is not known"), shown
        found = [{"name": f"{source}-{case}", "usd": case}]
        done = self.server.did[source, case][-1]
        assert msgspec.json.decode(said) == (found if done == FOUND else []), shown


def test_no_failure_looks_like_an_answer(*, soak: bool, record_property: Any) -> None:
    """Every result is an answer of the tool, is marked and says where from, or is an error."""
    draw = random.Random(None if soak else 7)  # noqa: S311
    least = 1_000 if soak else 150
    with serving(draw.randrange(10**9)) as server:
        world = World(server)
        with world.app:
            while world.counts["failures"] < least:
                world.play(draw)
    gc.collect()
    counts = world.counts
    record_property("told", dict(counts))
    kinds = {"404", "{}", "empty", "html", "type", "500", "429", "slow", "reset", FOUND, NOTHING}
    assert all(counts[one] for one in kinds), counts
    assert all(counts[f"told as {one}"] for one in ("errors", "degraded", FOUND, NOTHING)), counts
