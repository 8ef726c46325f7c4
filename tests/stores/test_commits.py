"""What is stored and cannot be read is damage, never an error of the decoder."""

import pytest

from outlast.errors import JournalDamaged
from outlast.stores import _commits

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"\xff",
        b'{"type":"note_added","text":"\xff"}',
        b'{"type":"from_the_future"}',
        b'{"type":"message_received","ask_id":"a","content":%s}' % DEEP,
    ],
    ids=["gone", "empty", "not JSON", "not UTF-8", "not an event", "too deep"],
)
def test_a_body_that_is_no_event_is_damage(body):
    """Whatever is wrong with a body is told with its place."""
    with pytest.raises(JournalDamaged, match="seq 7"):
        _commits.open_body("run:a", 7, body)


@pytest.mark.parametrize("meta", [b"", b"\xff", b'{"journal_version":"new"}', b"[]"])
def test_a_version_that_is_unreadable_is_damage(meta):
    """So it is when even the version of a stream cannot be read."""
    with pytest.raises(JournalDamaged, match="seq 1"):
        _commits.check_version("run:a", _commits.RUN_STARTED, meta)
