"""Idempotency keys: their form, and how long they are remembered."""

from __future__ import annotations

import pytest

from producers.http.idempotency import Keys, digest, fingerprint, parse
from producers.http.problems import Problem

BODY, OTHER = b"1" * 32, b"2" * 32


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        (['"8e03978e-40d5-43e8-bc93-6894a57f9324"'], "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        (["8e03978e"], "8e03978e"),
        ([r'"with \"quotes\" and \\"'], r'with "quotes" and \\'[:-1]),
        (['"a b"'], "a b"),
    ],
)
def test_a_key_is_a_quoted_string_or_a_bare_word(headers: list[str], key: str | None) -> None:
    assert parse(headers) == key


@pytest.mark.parametrize(
    "headers", [[""], ['""'], ["a b"], ['"a'], ["k" * 256], ["a", "b"], ["\u00e9"], ['"a";x=1']]
)
def test_what_is_no_key_is_refused(headers: list[str]) -> None:
    with pytest.raises(Problem) as refused:
        parse(headers)
    assert refused.value.status == 400


def test_clients_do_not_share_keys_and_kinds_do_not_share_bodies() -> None:
    assert digest("a", "bc") != digest("ab", "c")
    assert fingerprint("org", b"{}") != fingerprint("class", b"{}")


def test_a_key_is_forgotten_after_its_time() -> None:
    now = [0.0]
    keys = Keys(60, 100, clock=lambda: now[0])
    keys.begin(b"k", BODY)
    keys.finish(b"k", BODY)
    now[0] = 59.0
    assert keys.done(b"k", BODY)
    now[0] = 61.0
    assert not keys.done(b"k", OTHER)
    keys.finish(b"l", BODY)
    assert len(keys) == 1


def test_the_newest_keys_are_kept_when_there_are_too_many() -> None:
    keys = Keys(60, 2, clock=lambda: 0.0)
    for name in (b"a", b"b", b"a", b"c"):
        keys.finish(name, BODY)
    assert [keys.done(name, BODY) for name in (b"a", b"b", b"c")] == [True, False, True]


def test_keys_read_back_after_a_restart_count_from_when_they_were_used() -> None:
    keys = Keys(60, 100, clock=lambda: 1000.0)
    keys.finish(b"old", BODY, 900.0)
    keys.finish(b"new", BODY, 950.0)
    assert not keys.done(b"old", BODY) and keys.done(b"new", BODY)
