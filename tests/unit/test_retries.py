"""Retries until a try succeeds, and the circuit that shows that a product is down."""

from __future__ import annotations

import pytest

from bus.consume.retries import Retries
from bus.errors import Never, RetryLater, Stop
from bus.observe.metrics import ConsumerMetrics
from bus.settings import ConsumerSettings


class Product:
    """Raises the given answers, one per try, and then succeeds."""

    def __init__(self, *answers: Exception) -> None:
        self.answers = list(answers)
        self.open_at: list[str] = []
        self.waits: list[float] = []
        self.metrics = ConsumerMetrics()
        how = ConsumerSettings(retry_first=0.5, retry_most=8, circuit_failures=3)
        self.retries = Retries(how, "lunch", self.metrics, self.waits.append)

    def take(self) -> str:
        self.open_at.append(self.retries.open)
        if self.answers:
            raise self.answers.pop(0)
        return "taken"

    @property
    def circuit(self) -> float | None:
        return self.metrics.registry.get_sample_value(
            "schoolbus_circuit_open", {"product": "lunch"}
        )


def down(times: int) -> list[Exception]:
    return [RetryLater("not now") for _ in range(times)]


def test_what_works_is_done_once() -> None:
    lunch = Product()
    assert lunch.retries.persist(lunch.take) == "taken"
    assert (lunch.retries.attempts, lunch.waits) == (1, [])


def test_what_fails_is_tried_until_it_works_with_longer_waits() -> None:
    lunch = Product(*down(30))
    assert lunch.retries.persist(lunch.take) == "taken"
    assert lunch.retries.attempts == 31
    assert all(0 <= wait <= 8 for wait in lunch.waits)
    assert len(set(lunch.waits)) > 20  # jitter: consumers do not all come back at one moment


def test_what_the_product_asks_for_is_waited() -> None:
    lunch = Product(RetryLater("busy", after=45))
    lunch.retries.persist(lunch.take)
    assert lunch.waits == [45]


def test_the_circuit_opens_after_some_failures_and_closes_with_success() -> None:
    lunch = Product(*down(4))
    lunch.retries.persist(lunch.take)
    assert [bool(why) for why in lunch.open_at] == [False, False, False, True, True]
    assert "lunch does not answer (3 tries failed)" in lunch.open_at[3]
    assert lunch.retries.open == ""
    assert lunch.circuit == 0


@pytest.mark.parametrize("failure", [Never("not this one"), Stop("ask somebody"), KeyError("x")])
def test_any_other_failure_goes_through_at_once(failure: Exception) -> None:
    lunch = Product(failure)
    with pytest.raises(type(failure)):
        lunch.retries.persist(lunch.take)
    assert lunch.waits == []
