"""Loads the settings of a command that needs Kafka, and checks that Kafka answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus.settings import Settings


def settings_of_reached() -> Settings:
    """Return the settings of this process, after a check that its cluster answers.

    Raises `Stop` and `RetryLater` within a few seconds if it does not. The embedded bus needs no
    check here: whenever its addresses are looked up, its processes are checked.
    """
    from bus import settings
    from bus.kafka.reachability import check_reachable

    loaded = settings.load()
    if not loaded.embedded:
        check_reachable(loaded)
    return loaded
