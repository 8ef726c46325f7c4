"""Which model was asked instead of which, as people and programs are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import outlast
from cli.console import documents, typed
from outlast.models.script import refuse, say
from outlast.models.scripted import ScriptedModel

OPUS, SONNET = "claude-opus-5-5", "claude-sonnet-5-5"


def script(request: dict[str, Any], attempt: int) -> Any:
    return refuse("No.", category="bio") if request["model"] == OPUS else say("Yes.")


def test_every_page_of_a_run_names_the_model_that_was_asked(tmp_path: Path) -> None:
    """`show`, `log`, `costs` and their JSON tell of both models, and what each has cost."""
    store = f"sqlite:///{tmp_path}/a.db"
    alone = outlast.Agent("asker", model=OPUS)
    model = ScriptedModel(script)
    with outlast.Outlast(store, model=model) as app:
        app.run(replace(alone, fallback_models=[SONNET]), "Hello.", run_id="r")
        assert app.run(alone, "Hello.", run_id="alone").status == "failed"
    told = f"{SONNET} instead of {OPUS}"
    assert f"instead  {told} (refusal)" in typed("show", "r", "--store", store).stdout
    (shown,) = documents(typed("show", "r", "--json", "--store", store).stdout)
    switch = {"ask_id": "ask-1", "before": OPUS, "model": SONNET, "why": "refusal"}
    assert shown["switches"] == [switch]
    (shown,) = documents(typed("show", "alone", "--json", "--store", store).stdout)
    assert shown["switches"] == []
    log = " ".join(typed("log", "r", "--store", store).stdout.split())
    assert f"asked {told}, which refused to answer (bio)" in log
    (costs,) = documents(typed("costs", "--by", "model", "--json", "--store", store).stdout)
    billed = {OPUS: 0, SONNET: 0}
    for charge in model.bill:
        billed[charge.model] += charge.nano_usd
    text = str(costs)
    assert all(name in text and str(nano) in text for name, nano in billed.items())
