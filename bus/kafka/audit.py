"""Records in the audit topic who looked at personal data, and why."""

from __future__ import annotations

import json

from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.cloudevents import now
from bus.kafka.sender import send
from bus.settings import Settings


def record_access(settings: Settings, what: str, *, why: str, by: str, **about: str) -> None:
    """Record in the audit topic that somebody looks at personal data.

    Call this before the data is shown. Raises `Stop` without a reason. Raises `RetryLater` when
    Kafka does not accept this entry: then nothing may be shown.

    what:  what was done, such as "looked at a dead letter".
    why:   the reason, for a person.
    by:    who looks at the data.
    about: which data.
    """
    if not why.strip():
        raise Stop("looking at personal data requires a reason, which is recorded: add --why")
    topics.ensure(settings, [topics.audit(settings)])
    note = {"what": what, "by": by, "at": now(), "why": why, **about}
    send(
        settings,
        topics.audit(settings),
        json.dumps(note).encode(),
        doing="record the access to personal data",
        later="nothing is shown; try again when Kafka is up",
    )
