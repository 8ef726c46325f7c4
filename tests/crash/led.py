"""The Claude of the killed processes: it leads them through all tools, and trips them if asked."""

from agents import cut_off, lead

from outlast.models.script import Fault, any_of, faulty, once, text_of

_TRIPS = any_of(
    once(1, Fault(kind="status", status=529)),
    once(2, Fault(kind="cut", after_events=4)),
)


def _if_asked(request, attempt):
    # Every trip costs real seconds of backoff, so only some runs ask for it.
    asked = "overloaded" in text_of(request["messages"][0]["content"])
    return _TRIPS(request, attempt) if asked else None


def _said(request, attempt):
    """Lead through all tools, or be cut off and pause, as the question asks."""
    asked = text_of(request["messages"][0]["content"])
    return (cut_off if "cut short" in asked else lead)(request, attempt)


script = faulty(_said, _if_asked)
