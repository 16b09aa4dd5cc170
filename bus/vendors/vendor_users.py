"""The Kafka users of an agreement.

Each agreement has two, `vendor-NAME-a` and `vendor-NAME-b`, which are used in turn: Kafka keeps one
password for each user, so a new password goes to the other user while the old one still works.
"""

from __future__ import annotations

from bus.kafka import access
from bus.local.home import is_secure
from bus.settings import Settings
from bus.vendors.registry_tokens import remove_tokens


def names(ids_name: str) -> tuple[str, str]:
    """Return the users of an agreement.

    ids_name: the agreement's name in topics (`bus.vendors.applied.Applied.ids_name`).
    """
    return f"vendor-{ids_name}-a", f"vendor-{ids_name}-b"


def known(settings: Settings) -> bool:
    """Return whether the cluster asks its clients who they are."""
    if settings.embedded:
        return is_secure(settings.home)
    return bool(settings.kafka.sasl_mechanism)


def shut_out(settings: Settings, ids_name: str) -> None:
    """Delete the tokens of an agreement, deny its users everything, and delete their passwords.

    Both users are denied first: a rule counts from the next request on, also on open connections,
    and a deleted password ends no connection. The rules that deny remain. Doing it again changes
    nothing. On a cluster that does not ask its clients who they are, there are only tokens.

    Raises the errors of `bus.kafka.access`.
    """
    remove_tokens(settings, ids_name)
    if not known(settings):
        return
    for user in names(ids_name):
        access.deny_all(settings, user)
    for user in names(ids_name):
        access.delete_user(settings, user)
