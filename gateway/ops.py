"""Liveness, readiness and metrics: what the people who run it at night look at first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from gateway.audit import Recorder
from gateway.inforce import Policies
from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.problem import Problem
from gateway.store import Store


@dataclass(frozen=True, slots=True)
class Operations:
    """Handlers of `/healthz`, `/readyz` and `/metrics`. An upstream that is down does not make us unready."""

    store: Store
    recorder: Recorder
    policies: Policies
    metrics: Metrics

    def add_routes(self, router: web.UrlDispatcher) -> None:
        serve_only(router, ("GET", "HEAD"), "/healthz", self.healthz)
        serve_only(router, ("GET", "HEAD"), "/readyz", self.readyz)
        serve_only(router, ("GET", "HEAD"), "/metrics", self.expose)

    async def healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"}, headers={"Gateway-Answer": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """200 when requests can be judged and recorded, else 503 with what is wrong."""
        checks = {
            "store": await self._store(),
            "record": "ok" if self.recorder.healthy else "cannot be written",
        }
        ready = all(state == "ok" for state in checks.values())
        return web.json_response(
            {
                "status": "ready" if ready else "not ready",
                "checks": checks,
                "policies": self._policies(),
            },
            status=200 if ready else 503,
            headers={"Gateway-Answer": "ok" if ready else "not-ready"},
        )

    def _policies(self) -> dict[str, object]:
        """The set in force; `newer` says why the one that is to follow it does not. Old policies serve all the same."""
        policies = self.policies
        told: dict[str, object] = {
            "digest": policies.table.digest[:16],
            "generation": policies.generation,
        }
        if policies.last.word != "loaded":
            told["newer"] = {"outcome": policies.last.word, "faults": policies.last.shown()}
        return told

    async def _store(self) -> str:
        try:
            await self.store.ping()
        except Problem:
            return "cannot answer"
        return "ok"

    async def expose(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self.metrics.text().encode(),
            headers={"Content-Type": CONTENT_TYPE, "Gateway-Answer": "ok"},
        )


def serve_only(
    router: web.UrlDispatcher,
    methods: tuple[str, ...],
    path: str,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> None:
    """Serve a path for these methods; any other is 405 here, and not a request for the vendor's APIs.

    aiohttp would go on to the next route that matches, and the proxy's matches everything.
    """

    async def refuse(_: web.Request) -> web.StreamResponse:
        raise Problem("method-not-allowed", headers=(("Allow", ", ".join(methods)),))

    for method in methods:
        router.add_route(method, path, handler)
    router.add_route("*", path, refuse)
