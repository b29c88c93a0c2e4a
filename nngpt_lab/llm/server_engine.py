"""A language model that a server runs: vLLM, SGLang, llama.cpp, Ollama, or what else has OpenAI's interface::

    local/<model>@http://127.0.0.1:8000/v1                       in place of a model's name or folder
    local/<model>@http://127.0.0.1:8000/v1?api_key_env=NAME      the key stands in that environment variable
    local/<model>@http://127.0.0.1:8000/v1?top_k=yes             send top_k, too; not every server takes it
    local/<model>@http://127.0.0.1:8000/v1?weights=FOLDER        the same model's weights, to be tuned on this machine;
                                                                 the server on this machine is given each adapter

A seed is sent with each request, but a server batches as it likes, and rounding depends on what is computed together:
texts are not repeatable. What the ledger holds is never asked for again.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.ground.names import did_you_mean
from nngpt_lab.ground.seeds import derive

FORM = "local/<model>@http://127.0.0.1:8000/v1"
OPTIONS = ("api_key_env", "top_k", "weights")
BUSY = (429, 503)
WAITS = (1, 2, 4, 8, 16, 32)  # seconds before another try of a busy server, unless it says how long itself
LONGEST = 3600.0  # seconds for one answer: a queue of long texts on a slow machine
ADAPTERS_CURE = "start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora --max-lora-rank 32"

_adapters = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """One answer: its text, how many tokens it took (None if the server does not say), and whether it came to an end
    (False where the length limit cut it)."""

    text: str
    tokens: int | None
    finished: bool


@dataclass(frozen=True)
class Server:
    """A model on a server.

    Attributes:
        model: as the server calls it.
        url: of the interface, up to ``/v1``.
        key_env: name of the environment variable that holds the key; empty for none.
        top_k: whether the server takes this setting, which the interface does not have.
        weights: the same model's name, folder or GGUF file on this machine; empty for none.
    """

    model: str
    url: str
    key_env: str = ""
    top_k: bool = False
    weights: str = ""

    def identity(self) -> dict[str, Any]:
        """What tells it from other models; the key is no part of it."""
        about = {"name": self.model, "source": "server", "revision": None, "licence": None}
        return about | {"url": self.url, "top_k": self.top_k, "texts": "not repeatable"}

    def check(self) -> None:
        """Whether the server answers and has the model. UsageError: no such model there, or no key; DataError: the
        server does not answer."""
        listed = self.ask("/models").get("data") or []
        names = [str(each.get("id")) for each in listed]
        if names and self.model not in names:
            cure = f"{did_you_mean(self.model, names)}it has {', '.join(names[:20])}"
            raise UsageError(f"the server {self.url} has no model {self.model!r}", cure)

    def check_adapters(self) -> None:
        """A UsageError unless the server takes LoRA adapters while it runs."""
        try:
            self.ask("/load_lora_adapter", {})
        except Refused as error:
            if error.status in (404, 405, 501):
                raise UsageError(f"the server {self.url} takes no adapters while it runs", ADAPTERS_CURE) from error

    @contextlib.contextmanager
    def adapter(self, folder: Path) -> Iterator[Server]:
        """The model with an adapter of this machine's, for as long as this lasts: under a new name each time, since a
        server may keep what it computed under an old one."""
        name = f"nngpt-lab-{os.getpid()}-{next(_adapters)}"
        self.ask("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())}, LONGEST)
        try:
            yield Server(name, self.url, self.key_env, self.top_k)
        finally:
            self.ask("/unload_lora_adapter", {"lora_name": name}, LONGEST)

    def chats(
        self, asked: Sequence[list[dict[str, str]]], seeds: Sequence[int], settings: Mapping[str, Any], at_once: int
    ) -> Generator[tuple[int, Answer]]:
        """Yield (index of the messages, their answer) as answers come, ``at_once`` requests under way at a time; the
        server applies the model's chat template. ``settings``: temperature, top_p, max_tokens, top_k (sent if the
        server takes it and it is not 0)."""
        sent = {name: value for name, value in settings.items() if name != "top_k" or (self.top_k and value)}

        def chat(place: int) -> tuple[int, Answer]:
            seed = derive("server", seeds[place]) % 2**31  # what all servers take; to some 2**32 - 1 means random
            body = {"model": self.model, "messages": asked[place], "seed": seed, "stream": False, **sent}
            return place, _answer(self.url, self.ask("/chat/completions", body, LONGEST))

        with ThreadPool(at_once) as pool:  # whose threads, unlike an executor's, keep no process that wants to end
            yield from pool.imap_unordered(chat, range(len(asked)))

    def ask(self, path: str, body: Mapping[str, Any] | None = None, timeout: float = 10.0) -> Any:
        """What the server answers to a request, read as JSON ({} if it is none); a busy one is asked again. Refused: it
        answers with an error; DataError: it does not answer."""
        headers = {"Content-Type": "application/json", **self._key()}
        data = None if body is None else json.dumps(body).encode()
        for wait in (*WAITS, None):
            request = urllib.request.Request(f"{self.url}{path}", data, headers)
            try:
                with _opener(self.url).open(request, timeout=timeout) as answer:
                    return _json(answer.read())
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or wait is None:
                    said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:300]
                    cause = f"{self.url}{path} answered {error.code} {error.reason}: {said}"
                    raise Refused(cause, "see the server's own log", error.code) from error
                asked_for = error.headers.get("Retry-After", "")
                time.sleep(min(int(asked_for), 60) if asked_for.isdigit() else wait)
            except (OSError, http.client.HTTPException) as error:
                cause = f"the server {self.url} does not answer ({getattr(error, 'reason', None) or error})"
                raise DataError(cause, f"start it, or mend its address: {FORM}") from error
        raise AssertionError("the last try returns or raises")

    def _key(self) -> dict[str, str]:
        if not self.key_env:
            return {}
        if not os.environ.get(self.key_env):
            raise UsageError(f"the environment variable {self.key_env} is empty", "put the server's key there")
        return {"Authorization": f"Bearer {os.environ[self.key_env]}"}


class Refused(LabError):
    """A server's answer that is an error; ``status`` is its number."""

    def __init__(self, cause: str, cure: str, status: int = 0):
        super().__init__(cause, cure)
        self.status = status


def parse(name: str) -> Server | None:
    """The server that a name stands for, or None if it is of another form.

    UsageError if the address is none, holds a password, or has an unknown option.

    >>> parse("local/qwen@http://127.0.0.1:8000/v1?api_key_env=KEY")
    Server(model='qwen', url='http://127.0.0.1:8000/v1', key_env='KEY', top_k=False, weights='')
    """
    if not (parts := re.fullmatch(r"local/(.+?)@(https?://\S+)", name)):
        return None
    model, address = parts.groups()
    url = urlsplit(address)
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    if not url.hostname or url.username or url.password or url.fragment:
        raise UsageError(f"{url.hostname or address} is no address of a server", f"use {FORM}?api_key_env=NAME")
    for option in options.keys() - set(OPTIONS):
        cure = f"{did_you_mean(option, OPTIONS)}use some of {', '.join(OPTIONS)}"
        raise UsageError(f"a served model has no option {option!r}", cure)
    place = f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"
    top_k = options.get("top_k", "no") not in ("", "0", "no", "false")
    return Server(model, place, options.get("api_key_env", ""), top_k, options.get("weights", ""))


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Without the environment's proxy where the server is this machine."""
    here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if here else []))


def _json(data: bytes) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(data)
    return {}


def _answer(url: str, said: Any) -> Answer:
    try:
        choice = said["choices"][0]
        text = choice["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        cause = f"{url} answers in another form: {str(said)[:200]}"
        raise LabError(cause, f"give the address of a chat interface: {FORM}") from error
    return Answer(text, (said.get("usage") or {}).get("completion_tokens"), choice.get("finish_reason") == "stop")
