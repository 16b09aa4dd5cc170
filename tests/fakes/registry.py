"""A schema registry in memory, as far as the bus uses it."""

from __future__ import annotations

import json

import httpx2

from bus.registry.registry_client import RegistryClient


class FakeRegistry:
    """Gives each new text an id. `asked` lists the requests as (method, path).

    status:  when it is not 200, the answer to everything.
    deleted: the subjects that are soft-deleted.
    """

    def __init__(self) -> None:
        self.subjects: dict[str, list[str]] = {}
        self.deleted: dict[str, list[str]] = {}
        self.ids: dict[str, int] = {}
        self.levels: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.status = 200

    def client(self, _: object = None) -> RegistryClient:
        """Return a client of this registry, in place of `registry_client.client`."""
        http = httpx2.Client(transport=httpx2.MockTransport(self._answer))
        return RegistryClient(["http://registry"], http)

    def add(self, subject: str, schema: object) -> int:
        """Register a schema, and return its id."""
        text = json.dumps(schema, ensure_ascii=False)
        if text not in self.subjects.setdefault(subject, []):
            self.subjects[subject].append(text)
        return self.ids.setdefault(text, len(self.ids) + 1)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((request.method, request.url.path))
        if self.status != 200:
            return httpx2.Response(self.status, json={"error_code": self.status, "message": ""})
        parts = [part for part in request.url.path.split("/") if part]
        body = json.loads(request.content or b"{}")
        if request.method == "PUT":
            self.levels[parts[1]] = body["compatibility"]
            return httpx2.Response(200, json=body)
        if request.method == "DELETE":
            return self._delete(parts[1], "permanent" in request.url.params)
        if parts == ["subjects"]:
            more = self.deleted if "deleted" in request.url.params else {}
            return httpx2.Response(200, json=[*self.subjects, *more])
        if parts[0] == "compatibility":
            return httpx2.Response(200, json={"is_compatible": True})
        if request.method == "POST" and parts[-1] == "versions":
            return httpx2.Response(200, json={"id": self.add(parts[1], json.loads(body["schema"]))})
        texts = self.subjects.get(parts[1], [])
        if request.method == "POST":
            if body["schema"] not in texts:
                return _missing(40403)
            return self._version(texts, texts.index(body["schema"]))
        if not texts:
            return _missing(40401)
        if parts[-1] == "versions":
            return httpx2.Response(200, json=list(range(1, len(texts) + 1)))
        return self._version(texts, int(parts[-1]) - 1)

    def _delete(self, subject: str, permanent: bool) -> httpx2.Response:
        """Delete a subject as Confluent's registry does: softly first, and then for good."""
        if permanent and subject in self.subjects:
            body = {"error_code": 40405, "message": "not soft-deleted"}
            return httpx2.Response(404, json=body)
        if permanent and subject in self.deleted:
            return httpx2.Response(200, json=[1 for _ in self.deleted.pop(subject)])
        if subject in self.deleted:
            return _missing(40404)
        if subject not in self.subjects:
            return _missing(40401)
        self.deleted[subject] = self.subjects.pop(subject)
        return httpx2.Response(200, json=[1])

    def _version(self, texts: list[str], at: int) -> httpx2.Response:
        found = {"id": self.ids[texts[at]], "version": at + 1, "schema": texts[at]}
        return httpx2.Response(200, json=found)


def _missing(code: int) -> httpx2.Response:
    return httpx2.Response(404, json={"error_code": code, "message": "not there"})
