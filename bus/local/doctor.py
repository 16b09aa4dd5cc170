"""`bus doctor`: looks at each thing that the bus stands on, changes nothing, and says the mend."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bus.failures import BusError, Stop
from bus.local import damage, kafka, lifecycle, machine
from bus.local.download import cache, damaged, fetched, repository, without_password
from bus.local.home import check_writable
from bus.settings import Settings, kafka_client

SECONDS = 10.0
"""How long a district's cluster or registry may take to answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `says` tells how it is, or what is wrong and how to mend it."""

    name: str
    ok: bool
    says: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, one after the other; nothing is raised."""
    looks: list[tuple[str, Callable[[], str]]]
    if settings.embedded:
        home = settings.home.absolute()
        looks = [
            ("Java", lambda: machine.java_version(machine.java())),
            ("memory", partial(_memory, home)),
            ("disk", partial(_disk, home)),
            ("home", partial(_home, home)),
            ("programs", _programs),
            ("data", partial(_data, home)),
            ("Kafka", partial(_part, home, "kafka")),
        ]
        if not settings.registry.url:
            looks.append(("registry", partial(_part, home, "registry")))
    else:
        looks = [("Kafka", partial(_cluster, settings))]
    if settings.registry.url:
        looks.append(("registry", partial(_registry, settings)))
    for name, look in looks:
        try:
            yield Finding(name, True, look())
        except BusError as error:
            yield Finding(name, False, str(error))


def _memory(home: Path) -> str:
    if not lifecycle.status(home).endpoints:  # what runs has its memory already
        machine.check_memory()
    return f"{machine.memory_left_mb()} MB left"


def _disk(home: Path) -> str:
    machine.check_disk(home)
    return f"{machine.disk_left_mb(home)} MB left"


def _home(home: Path) -> str:
    if not home.exists():
        return f"{home} will be made by `bus up`"
    check_writable(home)
    return str(home)


def _programs() -> str:
    found, missing = fetched()
    if missing:
        size, source = f"{missing // 1_000_000} MB", without_password(repository())
        return f"`bus up` will fetch {size} from {source} to {cache()}"
    if wrong := damaged(found):
        raise Stop(
            f"{wrong[0]} is not what was fetched (a damaged disk?): run `bus down`, remove "
            f"{cache()} and run `bus up`, which fetches all anew"
        )
    return f"Kafka {found.kafka_version}, Apicurio Registry {found.registry_version} in {cache()}"


def _data(home: Path) -> str:
    lifecycle.check_versions(home, fetched()[0])
    damage.check(home)
    if spare := damage.damage(home).spare:
        raise Stop(f"{', '.join(map(str, spare))} is damaged: run `bus up`, which mends it")
    return f"{home} is whole" if kafka.holds_data(home) else "none yet"


def _part(home: Path, name: str) -> str:
    state = lifecycle.status(home)
    if name in state.dead:
        raise Stop(f"it was started but runs no more: see {home / 'logs' / name}.log and `bus up`")
    if not (running := state.running.get(name)):
        return "not up; start it with `bus up`"
    if not lifecycle.answers(name, running.port):
        raise Stop(
            f"process {running.pid} runs but does not answer on port {running.port}: run "
            "`bus down`, then `bus up`"
        )
    return f"answers on 127.0.0.1:{running.port} (process {running.pid})"


def _cluster(settings: Settings) -> str:
    """A district's own cluster: whether it lets us in."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    from bus.local.cluster import refused_setting

    where = settings.kafka.bootstrap
    try:
        client = AdminClient(kafka_client(settings) | {"logger": logging.getLogger("bus.kafka")})
        brokers = client.list_topics(timeout=SECONDS).brokers
    except KafkaException as error:
        refused_setting(error)
        raise Stop(
            f"{where} does not answer ({error.args[0].name()}): check [kafka] bootstrap, "
            "security_protocol and the credentials; a broker that wants TLS or SASL is silent to "
            "a client without it"
        ) from None
    return f"{len(brokers)} broker(s) at {where}"


def _registry(settings: Settings) -> str:
    """A district's own registry: whether it lets us in."""
    import httpx2

    named = settings.registry
    try:
        trust = ssl.create_default_context(cafile=named.ca_file or None)
        if named.certificate_file:
            trust.load_cert_chain(named.certificate_file, named.key_file or None)
    except OSError as error:  # also ssl.SSLError
        raise Stop(
            f"the certificates under [registry] cannot be read ({type(error).__name__}): check "
            "ca_file, certificate_file and key_file"
        ) from None
    token = named.bearer_token.get_secret_value()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    auth = (named.username, named.password.get_secret_value()) if named.username else None
    try:
        with httpx2.Client(verify=trust, timeout=SECONDS) as client:
            answer = client.get(f"{named.url.rstrip('/')}/subjects", headers=headers, auth=auth)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Stop(
            f"{named.url} does not answer ({type(error).__name__}): check [registry] url and "
            "ca_file"
        ) from None
    if answer.status_code in (401, 403):
        raise Stop(
            f"{named.url} refuses these credentials (HTTP status {answer.status_code}): check "
            "[registry] username and password, or bearer_token"
        )
    if answer.status_code != 200:
        raise Stop(
            f"{named.url}/subjects answers with HTTP status {answer.status_code}: is it the "
            "address of a registry with Confluent's API (Apicurio: …/apis/ccompat/v7)?"
        )
    return f"answers at {named.url}"
