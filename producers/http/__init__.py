"""The source `http`: `bus produce http` accepts records over HTTP as they are created.

Its main use is attendance. An SIS, a classroom app or a script POSTs one or more records to
`/v1/KIND`. The answer 202 means that Kafka has committed the records. `producers.http.app` lists
the checks that a request must pass. `/openapi.json` describes the API.
"""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import BaseModel

from bus.cli.output import Json, emit, failures, stderr
from bus.settings import load


def command(
    host: Annotated[
        str | None,
        typer.Option(help="Address on which to accept requests, instead of that in bus.toml."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port on which to accept requests, instead of that in bus.toml. 0: a free one.",
            min=0,
            max=65535,
        ),
    ] = None,
    new_key: Annotated[
        str | None,
        typer.Option(
            "--new-key",
            metavar="NAME",
            help="Create an API key for this client, print it and exit.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Accept records over HTTP at POST /v1/KIND and publish them."""
    with failures(json):
        if new_key is not None:
            _new_key(new_key, json)
        else:
            _serve(host, port, json)


def settings_model() -> type[BaseModel]:
    """Return the model of `[producers.http]`, which `bus doctor` checks."""
    from producers.http.settings import HttpSettings

    return HttpSettings


def _serve(host: str | None, port: int | None, json: bool) -> None:
    from bus.observe.telemetry import configure
    from producers.http.service import serve
    from producers.http.settings import http_settings

    settings = load()
    configure(settings.telemetry)
    http = http_settings(settings, host=host, port=port)

    def ready(url: str) -> None:
        emit(json, {"url": url}, lambda out: out.print(f"accepting records at {url}/v1/KIND"))
        if not http.certificate_file and http.host not in ("127.0.0.1", "::1", "localhost"):
            stderr.print(
                "API keys are sent unencrypted: set certificate_file and key_file in bus.toml, "
                "or let only a TLS proxy reach this address"
            )

    serve(settings, http, ready)


def _new_key(name: str, json: bool) -> None:
    import re

    from bus.errors import Stop
    from producers.http.clients import new_key
    from producers.http.settings import CLIENT_NAME

    if not re.fullmatch(CLIENT_NAME, name):
        raise Stop(
            "the client's name is not valid; use 1 to 64 letters, digits, dots, dashes and "
            "underscores"
        )
    key, digest = new_key()
    table = f'[producers.http.clients."{name}"]\nkey_sha256 = "{digest}"\nscopes = ["attendance"]'
    emit(
        json,
        {"client": name, "key": key, "sha256": digest, "toml": table},
        lambda out: out.print(
            f"The API key of {name}, which is shown only once:\n\n{key}\n\nAdd this to bus.toml "
            f"and restart the service:\n\n{table}",
            markup=False,
        ),
    )
