"""`bus doctor`: looks at each thing that the bus stands on, changes nothing, and says the mend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaError

from bus.errors import BusError, Stop
from bus.kafka.client import client_settings
from bus.local import damage, kafka_process, lifecycle, machine
from bus.local.download import cache, damaged, fetched, repository, without_password
from bus.local.home import check_writable
from bus.registry.registry_client import answered, client
from bus.settings import Settings, config_file

SECONDS = 10.0
"""How long a district's cluster may take to answer."""

DECIDED = {KafkaError._AUTHENTICATION, KafkaError._SSL}
"""After these errors it is of no use to wait."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at; `says` tells how it is, or what is wrong and how to mend it."""

    name: str
    ok: bool
    says: str


def examine(settings: Settings) -> Iterator[Diagnosis]:
    """Look at all that the bus stands on, one after the other; nothing is raised."""
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
            yield Diagnosis(name, True, look())
        except BusError as error:
            yield Diagnosis(name, False, str(error))


def examine_settings(wrong: Iterable[str]) -> Diagnosis:
    """How the settings are; `wrong` says what is not right with them, a text each."""
    if found := "\n".join(wrong):
        return Diagnosis("settings", False, found)
    file = config_file()
    where = str(file) if file.exists() else f"no {file} here, so what is usual counts"
    return Diagnosis("settings", True, where)


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
    return f"{home} is whole" if kafka_process.holds_data(home) else "none yet"


def _part(home: Path, name: str) -> str:
    state = lifecycle.status(home)
    if name in state.dead:
        raise Stop(f"it was started but runs no more: see {home / 'logs' / name}.log and `bus up`")
    if not (running := state.running.get(name)):
        raise Stop("not up; start it with `bus up`")
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

    from bus.kafka.overview import refused_setting

    where = settings.kafka.bootstrap
    told: list[KafkaError] = []  # a request that fails says only that it did; here comes the cause
    try:
        admin = AdminClient(client_settings(settings) | {"log_level": 0, "error_cb": told.append})
    except KafkaException as error:
        refused_setting(error)
        raise Stop(f"there is no Kafka client ({error.args[0].name()}): check [kafka]") from None
    for seconds in (SECONDS / 10, SECONDS):  # most of what is wrong is known at once
        try:
            brokers = admin.list_topics(timeout=seconds).brokers
            return f"{len(brokers)} broker(s) at {where}"
        except KafkaException:
            admin.poll(0)
            if any(error.code() in DECIDED for error in told):
                break
    raise Stop(f"there is no way into {where}: {_cause(settings, told)}")


def _cause(settings: Settings, told: list[KafkaError]) -> str:
    """Why there is no way into the cluster, and which setting to look at.

    What librdkafka says is shown where it is its own words or the broker's; what an identity
    provider answers is not, as it is any server's.
    """
    first = {error.code(): error.str().partition(" (after")[0][:300] for error in reversed(told)}
    kafka = settings.kafka
    if said := first.get(KafkaError._SSL):
        return (
            f"{said}. Check [kafka] ca_file: it must hold the authority that signed the brokers' "
            "certificates; bootstrap must name the brokers as their certificates do"
        )
    if (said := first.get(KafkaError._AUTHENTICATION)) and "OAUTHBEARER token" in said:
        if "trust anchors" in said:
            return "the authorities cannot be read: check [kafka] oauth_ca_file"
        if "certificate" in said:
            return (
                f"the certificate of {kafka.oauth_token_url} is not trusted: check [kafka] "
                "oauth_ca_file"
            )
        return (
            f"{kafka.oauth_token_url} gives no token: check [kafka] oauth_token_url, "
            "oauth_client_id, oauth_client_secret and oauth_scope"
        )
    if said and "mechanism handshake" in said:
        return f"{said}. Check [kafka] sasl_mechanism"
    if said and kafka.sasl_mechanism == "OAUTHBEARER":
        return f"{said}. Check what the token is for: [kafka] oauth_scope, oauth_client_id"
    if said:
        return f"{said}. Check [kafka] sasl_username and sasl_password"
    if said := first.get(KafkaError._RESOLVE):
        return f"it does not answer ({said}). Check [kafka] bootstrap"
    said = first.get(KafkaError._TRANSPORT, "no word of why")
    return (
        f"it does not answer ({said}). Check [kafka] bootstrap and security_protocol; a broker "
        "that wants TLS or SASL is silent to a client without it"
    )


def _registry(settings: Settings) -> str:
    """A district's own registry: whether it lets us in."""
    with client(settings) as registry, answered():
        registry.get_subjects()
    return f"answers at {without_password(settings.registry.url)}"
