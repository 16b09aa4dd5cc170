"""Problem documents (RFC 9457) and rates."""

from __future__ import annotations

import json

from producers.http.problems import ERRORS_SHOWN, Problem, pointer, response
from producers.http.rates import Rates


def test_a_pointer_is_a_json_pointer_as_a_uri_fragment() -> None:
    assert pointer() == "#"
    assert pointer(3, "eventDate") == "#/3/eventDate"
    assert pointer(0, "a/b~c d%") == "#/0/a~1b~0c%20d%25"
    assert pointer(4, "") == "#/4"


def test_a_thousand_errors_are_counted_and_not_all_shown() -> None:
    errors = [(pointer(index), "is wrong") for index in range(1000)]
    document = json.loads(bytes(response(Problem(422, "invalid-records", "…", errors)).body))
    assert len(document["errors"]) == ERRORS_SHOWN
    assert document["errorsLeftOut"] == 1000 - ERRORS_SHOWN
    assert document["title"] == "Invalid records"


def test_a_client_may_burst_and_then_keeps_to_the_rate() -> None:
    now = [0.0]
    rates = Rates(2.0, 3, clock=lambda: now[0])
    assert [rates.take("app") for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.take("sis") == 0
    now[0] = 0.5
    assert rates.take("app") == 0
    assert rates.take("app") > 0
