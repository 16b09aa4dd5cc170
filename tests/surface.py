"""What users see of Schoolbus, computed from the code: one fact a line, for the golden file.

Each function returns one section; the first word of its lines is the section's name. No line has
the name of a module, because users do not see where code is.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import tomllib
import types
from collections.abc import Iterable, Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import prometheus_client
import pytest
import typer
import uvicorn
from pydantic import BaseModel, SecretStr, TypeAdapter
from typer.testing import CliRunner

import bus
import bus.contract
import bus.standard
from bus import plugins
from bus.bench.figures import Comparison, Figure, Goal
from bus.bench.freshness_benchmark import Freshness
from bus.bench.measured import Cost
from bus.bench.soak_benchmark import Soak, Trend
from bus.bench.start_benchmark import Start
from bus.bench.usage import Used
from bus.bench.vendors_benchmark import VendorsResult
from bus.cli import app
from bus.consume import deadletters
from bus.consume.feed import district_feed
from bus.contract import Sent, a_record
from bus.errors import Stop
from bus.ingest import ownership, pipeline, quarantine, snapshot
from bus.kafka import cloudevents, retention, sender, topics, transactions
from bus.kafka.client import group_settings
from bus.local import damage, home, kafka_process
from bus.observe import health
from bus.observe.metrics import ConsumerMetrics
from bus.registry import subjects
from bus.registry.codec import Encoder
from bus.replay import replay_log
from bus.settings import KafkaSettings, RegistrySettings, RetentionSettings, Settings
from bus.source import Fault
from bus.standard import KINDS
from bus.vendors.vendor_schema import vendor_topic
from consumers.delivery import endpoint
from producers.http import idempotency, service
from producers.http.app import Service, create
from producers.http.clients import Clients
from producers.http.metrics import Metrics as HttpMetrics
from producers.http.openapi import document
from producers.http.settings import HttpSettings
from tests.contract import test_canvas, test_microsoft_sds, test_oneroster_csv_product
from tests.shapes import shape

ROOT = Path(__file__).parents[1]
SETTINGS = Settings(
    topic_prefix="PREFIX",
    kafka=KafkaSettings(bootstrap="127.0.0.1:1"),
    registry=RegistrySettings(url="http://127.0.0.1:1"),
)
HTTP = HttpSettings.model_validate(
    {
        "clients": {"office": {"key_sha256": "0" * 64}},
        "oauth": {"issuer": "https://i.example", "audience": "bus", "jwks": "keys.json"},
    }
)
ASKING = ("os.environ.get", "os.getenv")

Lines = Iterator[str]


# ---- the command line ------------------------------------------------------------------------


def commands() -> Lines:
    """Yield every command with its arguments and options: type, default, whether it is required."""
    for path, command in _commands(typer.main.get_command(app), "bus"):
        hidden = " (hidden)" if command.hidden else ""
        group = "a group of commands" if hasattr(command, "list_commands") else "a command"
        yield f"command {path}: {group}{hidden}"
        for parameter in command.params:
            yield f"command {path} {_parameter(parameter)}"


def command_paths() -> list[str]:
    """Return `bus consume` and all other commands that print JSON."""
    return [
        path
        for path, command in _commands(typer.main.get_command(app), "bus")
        if any("--json" in parameter.opts for parameter in command.params)
    ]


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            if path != "bus produce" or name in _ours("schoolbus.producers"):
                yield from _commands(command.get_command(None, name), f"{path} {name}")


def _parameter(parameter: Any) -> str:
    option = parameter.opts[0].startswith("-")
    names = "/".join(sorted([*parameter.opts, *parameter.secondary_opts]))
    annotation = parameter.type_descriptor.annotation if parameter.type_descriptor else None
    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    kind = getattr(annotation, "__name__", str(annotation))
    many = ", repeatable" if parameter.multiple or parameter.nargs != 1 else ""
    least, most = getattr(parameter, "min", None), getattr(parameter, "max", None)
    limits = f" from {least}" if least is not None else ""
    limits += f" to {most}" if most is not None else ""
    metavar = f" as {parameter.metavar}" if parameter.metavar else ""
    if parameter.required:
        default = "required"
    else:
        value = parameter.default
        default = f"default {json.dumps(value, default=str)}"
    what = "option" if option else "argument"
    return f"{names if option else names.upper()}: {what}, {kind}{limits}{metavar}{many}, {default}"


def exit_statuses(folder: Path) -> Lines:
    """Yield the exit statuses of commands; `folder` is the current folder, with no bus in it."""
    runner = CliRunner()
    for what, line in {
        "done": f"sample {folder / 'one.zip'} --students 1",
        "failed, as no bus is up": "schemas list",
        "wrong use, a product that is not there": "consume no-such-product",
        "wrong use, a command that is not there": "no-such-command",
        "wrong use, an option that is not there": "up --no-such-option",
        "wrong use, an argument that is missing": "produce oneroster-csv",
        "nothing said": "",
        "help": "--help",
        "version": "--version",
    }.items():
        yield f"status of a command, {what}: {runner.invoke(app, line.split()).exit_code}"
    for what, line in {"failed": "schemas list", "wrong use": "consume no-such-product"}.items():
        reported = runner.invoke(app, [*line.split(), "--json"])
        yield f"status of a command with --json, {what}: {reported.exit_code}"
        for fact in shape(json.loads(reported.stdout)):
            yield f"status of a command with --json, {what}, prints {fact}"


# ---- Kafka and the registry ------------------------------------------------------------------


class _Kafka:
    """A producer that records what it is given."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.sent: list[dict[str, Any]] = []
        _Kafka.made.append(self)

    made: list[_Kafka] = []  # noqa: RUF012 - its users empty it

    def produce(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int = -1,
        headers: Any = (),
        on_delivery: Any = None,
    ) -> None:
        self.sent.append({"topic": topic, "value": value, "key": key, "headers": headers})

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: 0

    def list_topics(self, **_: Any) -> Any:
        return types.SimpleNamespace(topics={})


def topic_facts() -> Lines:
    """Yield the topics for a prefix with their configuration, and the partition of a record."""
    tiered = SETTINGS.model_copy(update={"retention": RetentionSettings(tiered=True)})
    for name in [
        *(topics.topic(SETTINGS, kind) for kind in KINDS),
        topics.deadletters(SETTINGS, "PRODUCT"),
        topics.quarantine(SETTINGS),
        topics.sources(SETTINGS),
        topics.positions(SETTINGS),
        topics.idempotency(SETTINGS),
        topics.replays(SETTINGS),
        topics.audit(SETTINGS),
        topics.vendors(SETTINGS),
        topics.disclosures(SETTINGS),
        vendor_topic(SETTINGS, "NAME", "KIND"),
    ]:
        new = topics._new_topic(SETTINGS, name, SETTINGS.kafka.partitions)
        yield f"topic {name}: {new.num_partitions} partitions unless set otherwise"
        config = new.config or {}
        for key, value in config.items():
            yield f"topic {name}: {key} = {value}"
        for key, value in retention.wanted(tiered, name).items():
            if config.get(key) != value:
                yield f"topic {name}, with tiered storage: {key} = {value}"
    for owner in ("s1", "student-0000001", "Zoë"):
        yield f"topic partition of {owner} among 4: {topics.partition_for(owner, 4)}"


def messages(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Yield the keys, values and headers of messages, as the bus gives them to Kafka."""
    _Kafka.made.clear()
    monkeypatch.setattr(replay_log._Tail, "read", lambda _: {})  # nothing there yet
    for module in (sender, replay_log, transactions):
        monkeypatch.setattr(module, "Producer", _Kafka)
    monkeypatch.setattr(topics, "ensure", lambda *_: None)

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setattr(transactions, "Encoder", lambda *_: _Encoder())
    published = transactions.Publisher(
        SETTINGS, "/SOURCE", {"student": 1}, time="T", traceparent=trace
    )
    published.unchecked = {"student": ["orgSourcedIds", "FIELD"]}
    for change in get_args(cloudevents.Change):
        published.publish("student", change, _Batch())
    sent = _Kafka.made[-1].sent
    yield from _headers("record", [one["headers"] for one in sent])
    yield f"message record has the key {sent[0]['key']}, the record's sourcedId"
    for one in sent:
        for name, content in one["headers"]:
            if name not in ("ce_id", "ce_time", "traceparent"):
                yield f"message record has {name} {content.decode()}"
    frame = Encoder("org", 258).encode(a_record("org"))[:5].hex(" ")
    yield f"message record has the value {frame}, then Avro, for the schema id 258"

    fault = Fault("users.csv", 2, "givenName", "empty", "why")
    quarantine.publish(published, SETTINGS, "/SOURCE", [fault], "T")
    yield from _headers("quarantine", [sent[-1]["headers"]])
    yield f"message quarantine has the key {sent[-1]['key'].decode()} for one certain fault"
    yield from _value("quarantine", sent[-1]["value"])

    dead_letter = deadletters.DeadLetter("student", "s1", "why", 1, "T", "PREFIX.student/0/1")
    dead_letters = deadletters.DeadLetters(SETTINGS, "PRODUCT")
    dead_letters.add(Sent("student", "s1", 1), "why")  # type: ignore[arg-type]
    dead_letters.flush()
    yield from _headers("dead letter", [_Kafka.made[-1].sent[-1]["headers"]])
    deadletters.mark(SETTINGS, "PRODUCT", [dead_letter], "retried", "why", "who")
    yield from _headers("what became of a dead letter", [_Kafka.made[-1].sent[-1]["headers"]])
    yield "message what became of a dead letter has no value: " + str(
        _Kafka.made[-1].sent[-1]["value"] is None
    )
    deadletters.record_look(SETTINGS, "PRODUCT", dead_letter.place, "why", "who")
    yield from _value("audit", _Kafka.made[-1].sent[-1]["value"])

    about = replay_log.ReplayRequest("ID", "PRODUCT", "beginning", "now")
    kept = replay_log.ReplayLog(SETTINGS, "ID")
    kept.begin(about)
    kept.note(replay_log.ReplayState())
    replay_log.request(SETTINGS, "ID", "pause")
    for made in _Kafka.made[-2:]:
        for one in made.sent:
            name = one["key"].decode()
            yield from _value(f"replays with the key {name}", one["value"])

    ownership._publish_kinds(SETTINGS, "/SOURCE", {"student"})
    one = _Kafka.made[-1].sent[-1]
    yield f"message sources has the key {one['key'].decode()} and a value such as {one['value']!r}"
    yield from _value("idempotency key", idempotency.value(b"", 1, 1.5))


def clients(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Yield transactional ids, and consumer groups with their read settings."""
    _Kafka.made.clear()
    monkeypatch.setattr(replay_log._Tail, "read", lambda _: {})  # nothing there yet
    for module in (replay_log, transactions):
        monkeypatch.setattr(module, "Producer", _Kafka)
    monkeypatch.setattr(topics, "ensure", lambda *_: None)
    transactions.Publisher(SETTINGS, "/SOURCE", {}, time="T")
    yield f"client transactional.id of an extract: {_Kafka.made[-1].config['transactional.id']}"
    replay_log.ReplayLog(SETTINGS, "ID")
    yield f"client transactional.id of a replay: {_Kafka.made[-1].config['transactional.id']}"

    def named(_: Settings, name: str, **__: object) -> None:
        raise Stop(name)

    monkeypatch.setattr(service, "GroupCommit", named)
    monkeypatch.setattr(service, "_topics", lambda *_: 4)
    monkeypatch.setattr(subjects, "lookup", lambda _: dict.fromkeys(KINDS, 1))
    http = HTTP.model_copy(update={"port": 0, "instance": "INSTANCE", "oauth": None})
    with pytest.raises(Stop) as stop:
        service.serve(SETTINGS, http, lambda _: None)
    yield f"client transactional.id of the HTTP source: {stop.value}"

    group = group_settings(SETTINGS, "PRODUCT")
    for key in (
        "group.id",
        "isolation.level",
        "auto.offset.reset",
        "enable.auto.commit",
        "partition.assignment.strategy",
    ):
        yield f"client of a product: {key} = {group[key]}"


def schemas() -> Lines:
    """Yield subjects of the registry, and the fields of the schemas."""
    for kind, about in KINDS.items():
        yield f"schema {kind}: subject {subjects.subject(SETTINGS, kind)}"
        yield f"schema {kind}: {about.schema['namespace']}.{about.schema['name']}"
        yield f"schema {kind}: placed by {about.owner}"
        for attribute in ("school", "student", "retention", "bytesOnDisk"):
            if attribute in about.schema:
                yield f"schema {kind}: {attribute} {json.dumps(about.schema[attribute])}"
        for field in about.schema["fields"]:
            avro = _bare(field["type"])
            default = f", default {json.dumps(field['default'])}" if "default" in field else ""
            named = f", names {' or '.join(field['references'])}" if "references" in field else ""
            secret = f", {field['sensitivity']}"
            yield f"schema {kind}.{field['name']}: {avro}{default}{named}{secret}"


def _bare(avro: Any) -> str:
    if isinstance(avro, list):
        return " or ".join(_bare(one) for one in avro)
    if isinstance(avro, str):
        return avro
    if avro["type"] == "enum":
        return f"one of {', '.join(avro['symbols'])}"
    if avro["type"] == "array":
        return f"array of {_bare(avro['items'])}"
    return str(avro.get("logicalType", avro["type"]))


class _Encoder:
    def encode_all(self, _: Any) -> list[bytes]:
        return [b""]


class _Batch:
    def column(self, _: str) -> Any:
        return types.SimpleNamespace(to_pylist=lambda: ["s1"])


def _headers(what: str, found: Iterable[Any]) -> Lines:
    for headers in found:
        for name, _ in headers:
            yield f"message {what} has the header {name}"


def _value(what: str, value: bytes) -> Lines:
    for fact in shape(json.loads(value)):
        yield f"message {what} has the value {fact}"


# ---- what is served --------------------------------------------------------------------------


def metrics() -> Lines:
    """Yield the exposed names of metrics, with type and labels."""
    http = HttpMetrics()
    for registry in (ConsumerMetrics().registry, http.counted):
        for collector, names in registry._collector_to_names.items():
            made: Any = collector
            labels = ", ".join(made._labelnames) or "no label"
            name = {"counter": f"{made._name}_total"}.get(made._type, made._name)
            assert name in names
            yield f"metric {name}: {made._type} by {labels}"
            if isinstance(made, prometheus_client.Histogram):
                bounds = ", ".join(f"{bound:g}" for bound in made._kwargs["buckets"])
                yield f"metric {name}: buckets up to {bounds}"
    now = {metric.name for metric in http.counted.collect()}
    for metric in http.registry.collect():
        if metric.name not in now:
            yield f"metric {metric.name}: {metric.type} by its name in 0.1.0"


def http_paths(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Yield the HTTP source's paths with requests and answers, and a consumer's health paths."""
    encoders = {kind: Encoder(kind, number) for number, kind in enumerate(KINDS, 1)}
    keys = idempotency.Keys(3600, 10)
    commit: Any = None
    made = create(Service(SETTINGS, HTTP, Clients(HTTP), commit, keys, encoders, 4))
    for route in made.routes:
        path: Any = route
        yield f"http source {'/'.join(sorted(path.methods))} {path.path}"
    described = document(list(KINDS), HTTP)
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            where = f"http source {method.upper()} {path}"
            yield f"{where} answers {', '.join(sorted(operation['responses']))}"
            takes = ", ".join(f"{p['in']} {p['name']}" for p in operation["parameters"])
            yield f"{where} takes {takes}"
            yield f"{where} takes {', '.join(operation['requestBody']['content'])}"
    for name, how in described["components"]["securitySchemes"].items():
        reported = {key: value for key, value in how.items() if key != "description"}
        yield f"http source lets in by {name}: {json.dumps(reported, sort_keys=True)}"
    for name, schema in described["components"]["schemas"].items():
        yield from (f"http body {name}{fact}" for fact in _json_schema(schema, ""))

    def served(application: Any, **_: Any) -> None:
        raise Stop(", ".join(sorted(route.path for route in application.routes)))

    monkeypatch.setattr(uvicorn, "Config", served)
    with (
        pytest.raises(Stop) as stop,
        health.served("127.0.0.1", 1, ConsumerMetrics().registry, live=str, ready=str),
    ):
        pass
    yield f"http consumer paths {stop.value}"


def _json_schema(schema: Any, path: str) -> Lines:
    bare = {
        key: value
        for key, value in schema.items()
        if key not in ("description", "title", "properties", "required", "items")
    }
    required = schema.get("required", ())
    yield f"{path}: {json.dumps(bare, sort_keys=True)}"
    for name, inner in schema.get("properties", {}).items():
        needed = " (required)" if name in required else ""
        yield from _json_schema(inner, f"{path}.{name}{needed}")
    if "items" in schema:
        yield from _json_schema(schema["items"], f"{path}[]")


# ---- settings --------------------------------------------------------------------------------


def settings() -> Lines:
    """Yield all settings with their environment variable, type, limits and default."""
    yield from _settings(Settings, "", "BUS_")
    for name in sorted(_ours("schoolbus.products")):
        model = plugins.product(name).settings
        yield from _settings(model, f"products.{name}.", f"BUS_PRODUCTS__{name.upper()}__")
    yield from _settings(HttpSettings, "producers.http.", "BUS_PRODUCERS__HTTP__")
    for name in sorted(_environment()):
        yield f"setting of the environment alone: {name}"


def _settings(model: type[BaseModel], path: str, variable: str) -> Lines:
    for name, field in model.model_fields.items():
        inner = [one for one in _models(field.annotation) if issubclass(one, BaseModel)]
        default: Any = "none, it must be given"
        if not field.is_required():
            value = field.get_default(call_default_factory=True)
            default = "a group" if isinstance(value, BaseModel) else _plain(value)
        of_many = get_origin(field.annotation) is dict and inner
        key, env = f"{path}{name}", f"{variable}{name.upper()}"
        if inner:
            if of_many or not isinstance(field.get_default(), BaseModel):
                yield f"setting {key}: {'tables by name' if of_many else 'a table'}, default {default}"
            more = ".NAME." if of_many else "."
            yield from _settings(inner[0], key + more, env + more.replace(".", "__"))
            continue
        schema = TypeAdapter(model).json_schema()["properties"][name]
        reported = {k: v for k, v in schema.items() if k not in ("title", "description", "default")}
        yield f"setting {key}: {json.dumps(reported, sort_keys=True)}, default {default}, {env}"


def _models(annotation: Any) -> Iterator[type]:
    if get_origin(annotation) is Literal:
        return
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    for one in get_args(annotation):
        yield from _models(one)


def _plain(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return json.dumps(value, default=str)


def _environment() -> Iterator[str]:
    """Yield the names of variables that the code reads from the environment directly."""
    for folder in ("bus", "producers", "consumers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                asked: ast.expr | None = None
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ASKING:
                    asked = node.args[0]
                elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                    asked = node.slice
                if isinstance(asked, ast.Constant):
                    yield str(asked.value)


# ---- the package -----------------------------------------------------------------------------


def package() -> Lines:
    """Yield the contents of an installation: scripts, entry points, extras."""
    project = _project()
    yield f"package {project['name']} for Python {project['requires-python']}"
    for name in project["scripts"]:
        yield f"package script {name}"
    for group, points in project["entry-points"].items():
        yield from (f"package entry point {group} {name}" for name in points)
    yield from (f"package extra {name}" for name in project["optional-dependencies"])


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def _ours(group: str) -> set[str]:
    """Return the names that this package registers; other installed packages may register more."""
    return set(_project()["entry-points"][group])


def products() -> Lines:
    """Yield the products: tables with their columns, kinds, how batches are cut."""
    for name in sorted(_ours("schoolbus.products")):
        product = plugins.product(name)
        yield f"product {name}: kinds {', '.join(product.kinds)}"
        yield f"product {name}: {product.batch_records} records or {product.batch_seconds} s a batch"
        yield f"product {name}: tables {', '.join(table.name for table in product.tables)}"
        for table in product.tables:
            where = f"product {name} {table.name}"
            yield f"{where}: columns {', '.join(table.columns) or 'none, JSON'}"
            yield f"{where}: key {', '.join(table.key) or 'none'}"
            yield f"{where}: of {', '.join(sorted(table.rows))}"
        for kind, rule in product.siblings.items():
            days = f"; last day {rule.last or 'none'}, first day {rule.first or 'none'}"
            yield f"product {name}: siblings of {kind} agree in {', '.join(rule.fields)}{days}"


def python() -> Lines:
    """Yield signatures and fields of what Python programs import."""
    for name in bus.__all__:
        yield from _python(f"bus.{name}", getattr(bus, name))
    for path in documented():
        if path.rpartition(".")[0] != "bus":
            yield f"python {path}"


def _python(name: str, found: Any) -> Lines:
    if isinstance(found, types.GenericAlias):
        yield f"python {name} = {found}"
        return
    if not inspect.isclass(found):
        yield f"python {name}{_signature(found)}"
        return
    yield f"python {name}({', '.join(b.__name__ for b in found.__bases__ if b is not object)})"
    yield from (f"python {name}.{field}" for field in getattr(found, "_fields", ()))
    if dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            given = field.default is not dataclasses.MISSING
            given = given or field.default_factory is not dataclasses.MISSING
            yield f"python {name}.{field.name}: {field.type}{', has a default' if given else ''}"
    elif issubclass(found, BaseModel):
        return  # its fields are settings
    for member, value in vars(found).items():
        made = member == "__init__" and issubclass(found, Exception)
        if member.startswith("_") and not made:
            continue
        if inspect.isfunction(value):
            yield f"python {name}.{member}{_signature(value)}"
        elif isinstance(value, property):
            yield f"python {name}.{member}: property"


def _signature(function: Any) -> str:
    reported = re.sub(r"<function .*? at 0x[0-9a-f]+>", "…", str(inspect.signature(function)))
    return re.sub(r"'([^']*)'", r"\1", reported)


def documented() -> list[str]:
    """Return the import paths in the table of docs/python-api.md."""
    text = (ROOT / "docs" / "python-api.md").read_text("utf-8")
    return re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)


def importable(path: str) -> Any:
    """Return the object or the module that `from MODULE import NAME` imports for a path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


# ---- files -----------------------------------------------------------------------------------


def files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Yield the files that outlive a command, in BUS_HOME and in the folder of a product."""
    at = folder / "home"
    named = SETTINGS.model_copy(update={"home": at})
    yield f"file HOME/{snapshot.cache_file(named, '/oneroster-csv/west').relative_to(at)}"

    monkeypatch.setattr(subjects, "lookup", lambda _: dict.fromkeys(KINDS, 1))
    monkeypatch.setattr(topics, "ensure", lambda *_: None)
    seen: list[str] = []

    def take(*_: Any) -> Any:
        seen.extend(_from(at, one) for one in sorted(at.rglob("*")))
        raise Stop("seen")

    monkeypatch.setattr(pipeline, "_Run", take)
    with pytest.raises(Stop):
        pipeline.produce(named, "oneroster-csv/west", lambda _: None)
    yield from (f"file HOME/{name}" for name in seen)
    active = district_feed(named, plugins.product("canvas")).folder(named).relative_to(at)
    yield f"file HOME/{active}/TOPIC-N.duckdb"

    home.prepare(at)
    home.write_bus_file(at, home.BusFile({"kafka": 1}, {"kafka": "1"}))
    for key in home.read_json(at / "bus.json"):
        yield f"file HOME/bus.json has {key}"
    for path in sorted(at.iterdir()):
        yield f"file HOME/{_from(at, path)}"
    yield f"file HOME/{kafka_process.DATA}/{kafka_process.META}"
    yield f"file HOME/{damage.KEPT}"
    yield f"file HOME/{damage.H2}"
    yield f"file HOME/{_webhook_state(at).relative_to(at)}"

    batches = import_module(bus.contract.ProductContract.__module__)._batches
    for name, contract in {
        "canvas": test_canvas.TestCanvas(),
        "microsoft-sds": test_microsoft_sds.TestMicrosoftSds(),
        "oneroster-csv": test_oneroster_csv_product.TestOneRosterCsv(),
    }.items():
        out = folder / name
        out.mkdir()
        contract._deliver(out, batches())
        for path in sorted((out / "out").rglob("*")):
            where = str(path.relative_to(out / "out"))
            if path.is_file():
                reported = re.sub(r"\d{6,}", "N", re.sub(r"[0-9a-f]{16,}", "HASH", where))
                yield f"file {name} --out {reported}"
            if path.suffix == ".json":
                for key in json.loads(path.read_text("utf-8")):
                    yield f"file {name} --out {where} has {key}"


def _from(folder: Path, path: Path) -> str:
    return f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}"


def _webhook_state(at: Path) -> Path:
    """Return the file that says since when an endpoint fails."""
    url = endpoint.address("https://vendor.example/events")
    return endpoint.EndpointState(at / "products", url, timedelta(hours=1)).file


# ---- benchmarks ------------------------------------------------------------------------------


def bench_json() -> Lines:
    """Yield the keys of `bus bench … --json`, from its parts, as no test runs a benchmark."""
    used, course = Used(1.5, 1.5), Trend(1.5, 1.5, 1.5, 1.5, 0.1)
    figure = Figure("bus", 1, Cost(1.5, 1.5, 1.5, (1.5,)))
    numbers = {"p50": 1.5}
    many = {"machine": "", "comparisons": [Comparison("", "", [figure], [""]).as_json()]}
    fresh = Freshness(1, 1, 1, 1.5, numbers, numbers, {"bus": used})
    vendors = VendorsResult([Comparison("", "", [figure], [""])], [fresh], [Goal("", 1.5, "", 1.5)])
    soak = Soak(1.5, 1, 1, 1, 1, 1, {"bus": course}, {"bus": course})
    for names, found, data in (
        (("consume", "produce", "district", "day", "replay"), many, ()),
        (("freshness",), {"machine": "", "rates": [fresh.as_json()]}, (".rates[].used",)),
        (("soak",), {"machine": "", **soak.as_json()}, (".memory", ".handles")),
        (
            ("start",),
            {"machine": "", **Start([1.5], 1.5, 1.5, {"": 1.5}).as_json()},
            (".idlePercent",),
        ),
        (
            ("vendors",),
            {"machine": "", **vendors.as_json()},
            (".rates[].used",),
        ),
        (("plot",), {"out": ""}, ()),
    ):
        for name in names:
            yield from (f"json-bench bus bench {name} {fact}" for fact in shape(found, data))
