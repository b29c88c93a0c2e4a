"""A server with OpenAI's interface that answers as a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StandIn:
    """What the server does.

    Attributes:
        write: from a request's body to (text, tokens, reason for its end).
        refusals: status and headers of the next answers, used up first.
        lora: whether it takes adapters.
        asked: path, body and headers of each request.
    """

    write: Callable[[dict], tuple[str, int | None, str]]
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    lora: bool = False
    models: list[str] = field(default_factory=lambda: ["tiny"])
    asked: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def bodies(self, path: str) -> list[dict]:
        """What was asked at a path, in the order in which it came."""
        return [body for asked, body, _ in self.asked if asked == path]

    def answer(self, path: str, body: Any) -> tuple[int, dict[str, str], Any]:
        if path == "/v1/models":
            return 200, {}, {"data": [{"id": name} for name in self.models]}
        if path.endswith("lora_adapter"):
            if not self.lora:
                return 404, {}, {"error": "no such route"}
            return (200, {}, "Success") if body else (400, {}, {"error": "lora_name is missing"})
        if self.refusals:
            return *self.refusals.pop(0), {"error": "said so"}
        text, tokens, reason = self.write(body)
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
        return 200, {}, {"choices": [choice], "usage": {} if tokens is None else {"completion_tokens": tokens}}


@contextlib.contextmanager
def served(stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in at an address of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._reply(None)

        def do_POST(self):
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body):
            stand_in.asked.append((self.path, body, dict(self.headers)))
            status, headers, said = stand_in.answer(self.path, body)
            data = json.dumps(said).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
