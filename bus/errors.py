"""The three kinds of failure that sources, translations and deliveries raise.

* `RetryLater`: the other system cannot handle this now. The same call may succeed later.
* `Never`: this record can never be processed as it is. A person must correct it.
* `Stop`: nothing can be processed until a person changes something. The program ends.

Each message says what happened, to which record or file, and what to do next. Messages hold no
personal data: they name records by kind and sourcedId, and describe values only by their class.
"""

from __future__ import annotations


class BusError(Exception):
    """The base class of the errors that the bus raises on purpose.

    `str(error)` is written for a person and is shown unchanged.
    """


class RetryLater(BusError):  # noqa: N818 - names an instruction, not an error
    """The other system cannot handle this now; the same call is made again later.

    In a delivery, the consumer waits and delivers the same batch again.

    after: how many seconds the other system asked to wait (HTTP's Retry-After), or None.
    """

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Never(BusError):  # noqa: N818
    """One record can never be processed as it is.

    In a translation or a delivery, the record becomes a dead letter and the consumer goes on with
    the next one.

    code: the reason for a program: one of `bus.standard.fault_codes`, or a code of the product. If
          it is empty, the code follows from the place where the error is raised.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Stop(BusError):  # noqa: N818
    """Nothing can be processed until a person acts; the program ends with status 1."""
