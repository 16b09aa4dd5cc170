"""Describes the service in OpenAPI 3.1, from the schemas of the standard alone.

The JSON Schema of a kind is its .avsc in the terms of JSON (Avro 1.12, "Schema Declaration" and
"Logical Types"; OpenAPI 3.1, section 4.4). Dates and times are in the format of RFC 3339. A field
with a default may be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bus.standard import KINDS
from bus.standard.json import DATE, MOMENT, REQUIRED_TEXT, text_keywords
from producers.http.idempotency import LONGEST
from producers.http.intake import SAME_ATTENDANCE
from producers.http.problems import CONTENT_TYPE
from producers.http.settings import HttpSettings

Schema = dict[str, Any]

FLOAT, DOUBLE = 3.4028234663852886e38, 1.7976931348623157e308
"""The largest numbers of IEEE 754 binary32 and binary64."""

PRIMITIVES: dict[str, Schema] = {
    "null": {"type": "null"},
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "int": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": "number", "minimum": -FLOAT, "maximum": FLOAT},
    "double": {"type": "number", "minimum": -DOUBLE, "maximum": DOUBLE},
}
LOGICAL: dict[str, Schema] = {
    "date": {"type": "string", "format": "date", "pattern": DATE},
    "timestamp-millis": {"type": "string", "format": "date-time", "pattern": MOMENT},
}
KEY = r'^(?:"(?:[ !#-\[\]-~]|\\["\\])+"|[!#-~][!-~]*)$'
"""The pattern of an Idempotency-Key that `producers.http.idempotency` accepts: a quoted string or a
bare word.
"""
OPTIONAL = {"attendance": ("sourcedId", "status")}
"""Fields that may be left out although the schema has no default for them; see
`producers.http.intake`.
"""
NULLABLE = {"attendance": ("sourcedId",)}
"""Fields that may also be null, which means the same as leaving them out."""
RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before sending the request again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}

PROBLEMS = {
    "400": "The body is not JSON, or the Idempotency-Key is malformed.",
    "401": "The request has no valid credentials.",
    "403": "This client may not write this kind.",
    "408": "The body did not arrive in time.",
    "409": "A request with the same Idempotency-Key is still in progress.",
    "413": "The body has too many bytes or records, or a record is too large.",
    "415": "The body is not declared as application/json, or has a Content-Encoding.",
    "422": "Records are not valid (`errors` lists every wrong field), or the Idempotency-Key was "
    "used for another body. No record was accepted.",
    "429": "The client sends too often, or too many records wait for Kafka. See Retry-After.",
    "500": "The service failed, so it is unknown whether the records were published. Its log says "
    "where it failed.",
    "503": "Kafka has not confirmed the records. See Retry-After.",
}


LATER = ("409", "429", "503")
"""Statuses after which the client should send the same request again."""


def document(kinds: Sequence[str], http: HttpSettings) -> Schema:
    """Return the complete OpenAPI document for these kinds."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Schoolbus HTTP source",
            "version": "1",
            "description": "Accepts one or more records of the shared standard, and answers 202 "
            "when Kafka has committed them. A record that is posted again replaces the earlier "
            "one, so send all of its fields.",
        },
        "paths": {f"/v1/{kind}": {"post": _operation(kind, http)} for kind in kinds},
        "components": {
            "schemas": {
                **{kind: schema(kind) for kind in kinds},
                "accepted": _ACCEPTED,
                "problem": _PROBLEM,
            },
            "responses": {
                status: {
                    "description": text,
                    "content": {CONTENT_TYPE: {"schema": _ref("problem")}},
                    **({"headers": RETRY_AFTER} if status in LATER else {}),
                }
                for status, text in PROBLEMS.items()
            },
            "securitySchemes": _security(http),
        },
        "security": [{name: []} for name in _security(http)],
    }


def schema(kind: str) -> Schema:
    """Return the JSON Schema (2020-12) of one record as the service accepts it."""
    avro = KINDS[kind].schema
    named: dict[str, Schema] = {}
    left_out, nullable = OPTIONAL.get(kind, ()), NULLABLE.get(kind, ())
    return {
        "title": avro["name"],
        "description": avro["doc"],
        "type": "object",
        "properties": {
            field["name"]: _property(field, named, null=field["name"] in nullable)
            for field in avro["fields"]
        },
        "required": [
            field["name"]
            for field in avro["fields"]
            if "default" not in field and field["name"] not in left_out
        ],
        "additionalProperties": False,
        **_conditions(kind),
    }


def _conditions(kind: str) -> Schema:
    """Return the keywords for fields that have a value only with certain values of other fields.

    Source: JSON Schema 2020-12, "Core", section 10.2.2.
    """
    conditions = [
        {
            "if": {
                "properties": {other: {"const": value} for other, value in when.items()},
                "required": list(when),
            },
            "then": {
                "properties": {field: {"type": "string", "pattern": REQUIRED_TEXT}},
                "required": [field],
            },
            "else": {"properties": {field: {"type": "null"}}},
        }
        for field, when in KINDS[kind].when.items()
    ]
    return {"allOf": conditions} if conditions else {}


def _property(field: Schema, named: dict[str, Schema], *, null: bool) -> Schema:
    avro = [field["type"], "null"] if null else field["type"]
    found = _type(avro, named, text_keywords(field)) | {"description": field["doc"]}
    if "default" in field:
        found["default"] = field["default"]
    return found


def _type(avro: Any, named: dict[str, Schema], text: Schema) -> Schema:
    """Return the JSON Schema of an Avro type.

    text: the keywords for text in this field.
    """
    if isinstance(avro, list):
        return {"anyOf": [_type(branch, named, text) for branch in avro]}
    if isinstance(avro, str):
        found = named.get(avro) or PRIMITIVES[avro]
        return found | (text if avro == "string" else {})
    if logical := avro.get("logicalType"):
        return dict(LOGICAL[logical])
    if avro["type"] == "enum":
        named[avro["name"]] = {"type": "string", "enum": list(avro["symbols"])}
        return dict(named[avro["name"]])
    if avro["type"] == "array":
        return {"type": "array", "items": _type(avro["items"], named, text)}
    return _type(avro["type"], named, text)


def _operation(kind: str, http: HttpSettings) -> Schema:
    words = (
        f"Send one record of kind {kind}, or an array of at most {http.body_records}. Either all "
        "of them are published or none."
    )
    if kind == "attendance":
        words += (
            " A record without a sourcedId gets one that is derived from the client and from "
            f"{', '.join(SAME_ATTENDANCE)}. A later record with the same values corrects it."
        )
    return {
        "operationId": f"post_{kind}",
        "summary": KINDS[kind].schema["doc"].partition(". ")[0],
        "description": words,
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "A unique key that the client chooses for this request, such as a "
                "UUID in double quotes. If it sends the same request with the same key again, "
                "it gets the same answer and no record is published again. A key is remembered "
                f"for {http.idempotency_hours:g} hours.",
                "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST, "pattern": KEY},
            },
            {
                "name": "traceparent",
                "in": "header",
                "description": "W3C Trace Context of the client. The events continue this trace.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            _ref(kind),
                            {
                                "type": "array",
                                "items": _ref(kind),
                                "minItems": 1,
                                "maxItems": http.body_records,
                            },
                        ]
                    }
                }
            },
        },
        "responses": {
            "202": {
                "description": "Kafka has committed all records.",
                "content": {"application/json": {"schema": _ref("accepted")}},
            },
            **{status: {"$ref": f"#/components/responses/{status}"} for status in PROBLEMS},
        },
    }


def _security(http: HttpSettings) -> Schema:
    schemes: Schema = {}
    if http.clients:
        schemes["apiKey"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
        schemes["apiKeyAsBearer"] = {"type": "http", "scheme": "bearer"}
    if http.oauth is not None:
        schemes["accessToken"] = {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": f"OAuth 2.0 access token from {http.oauth.issuer} for the audience "
            f"{http.oauth.audience}. It needs the scope {http.oauth.scope_prefix}KIND for each "
            "kind that the client writes.",
        }
    return schemes


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_ACCEPTED: Schema = {
    "type": "object",
    "properties": {
        "events": {
            "type": "array",
            "description": "One event for each record, in the order of the records.",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "id": {
                        "type": "string",
                        "format": "uuid",
                        "description": "The event's CloudEvents id.",
                    },
                    "sourcedId": {"type": "string", "description": "The record's sourcedId."},
                },
                "required": ["id", "sourcedId"],
            },
        }
    },
    "required": ["events"],
}
_PROBLEM: Schema = {
    "description": "RFC 9457 problem details. They contain no value from the request.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "JSON Pointer into the body, as a URI fragment.",
                    },
                    "detail": {"type": "string"},
                },
                "required": ["pointer", "detail"],
            },
        },
        "errorsLeftOut": {
            "type": "integer",
            "description": "How many errors `errors` does not list.",
        },
    },
    "required": ["type", "title", "status", "detail"],
}
