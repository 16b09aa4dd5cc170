"""The settings of a command that needs Kafka, once it is known that Kafka answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus.settings import Settings


def settings_of_reached() -> Settings:
    """The settings of this process.

    Raises `Stop` and `RetryLater` within a few seconds when there is no way into the cluster. Of
    the embedded bus the processes are looked at as soon as it is asked for, so it is not asked
    twice.
    """
    from bus import settings
    from bus.kafka.reachability import check_reachable

    loaded = settings.load()
    if not loaded.embedded:
        check_reachable(loaded)
    return loaded
