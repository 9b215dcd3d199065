"""A model behind OpenAI's HTTP interface: /v1/completions, /v1/chat/completions, /v1/models and /health, on Starlette
and uvicorn.

The model steps in one thread, which takes the next step of each request in the order in which they were asked for. A
request asks for its next step when its client has taken the last one's text: so the active ones take turns, token by
token, and whoever has gone asks no more.
"""

import asyncio
import json
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from mixkabrn_run.completions import Limits, Refusal, Request, parse, parse_chat
from mixkabrn_run.language import Language


def run(languages: dict[str, Language], *, host: str, port: int, limits: Limits) -> None:
    """Serves a model until Ctrl-C, by names for what is beside it. Raises: OSError for an address that is taken, or not
    this machine's."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"--host={host} --port={port}: {reason}") from None
    # Or the kernel takes megabytes of text for a client that does not read.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    with listening, ThreadPoolExecutor(1) as thread:
        config = uvicorn.Config(
            Endpoint(languages, limits, thread).app,
            http=partial(Connection, limits),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        address, names = f"[{host}]" if ":" in host else host, ", ".join(languages)
        print(
            f"http://{address}:{listening.getsockname()[1]}/v1 has {names}; Ctrl-C ends it", file=sys.stderr, flush=True
        )
        Server(config).run([listening])


class Endpoint:
    """The paths, and what each answers."""

    def __init__(self, languages: dict[str, Language], limits: Limits, thread: ThreadPoolExecutor):
        """languages: one model with this or that beside it, by name; thread: one, where it steps."""
        self.languages, self.limits, self._thread = languages, limits, thread
        self._active = asyncio.Semaphore(limits.max_active)
        self._created = int(time.time())
        self.app = Starlette(
            routes=[
                Route("/v1/completions", partial(self.completions, parse), methods=["POST"]),
                Route("/v1/chat/completions", partial(self.completions, parse_chat), methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/health", self.health),
            ],
            exception_handlers={
                Refusal: lambda _, refusal: answer(refusal),
                HTTPException: lambda request, error: answer(_of_path(request, error)),
                ClientDisconnect: lambda *_: Response(status_code=499),  # for nobody
                Exception: lambda *_: answer(Refusal("the server failed; its output says why", status=500)),
            },
        )

    async def health(self, _: HttpRequest) -> Response:
        """That it runs."""
        return JSONResponse({"status": "ok"})

    async def models(self, _: HttpRequest) -> Response:
        """All names, in a list."""
        return JSONResponse({"object": "list", "data": list(map(self._model, self.languages))})

    async def model(self, request: HttpRequest) -> Response:
        """What there is of one name."""
        if (name := request.path_params["name"]) not in self.languages:
            message = f"model {name!r:.80}: this server has {', '.join(map(repr, self.languages))}"
            raise Refusal(message, status=404, code="model_not_found")
        return JSONResponse(self._model(name))

    def _model(self, name):
        return {"id": name, "object": "model", "created": self._created, "owned_by": "mixkabrn"}

    async def completions(self, parse: Callable[..., Request], http: HttpRequest) -> Response:
        """The texts behind a request's prompts, whole or as events.

        Args:
            parse: makes the request of a body.
        """
        body = await self._body(http)
        request = await asyncio.to_thread(parse, body, self.languages, self.limits)
        if request.stream:
            return Events(self._events(request), media_type="text/event-stream", headers={"cache-control": "no-cache"})
        return JSONResponse(await _while_connected(http, self._whole(request)))

    async def _body(self, http):
        """What the client sends, read to its end: one that is still sending would not hear of a refusal."""
        limits, content, size = self.limits, bytearray(), 0
        try:
            async with asyncio.timeout(limits.client_seconds):
                async for part in http.stream():
                    size += len(part)
                    if size <= limits.max_body_bytes:
                        content += part
        except TimeoutError:
            if size <= limits.max_body_bytes:
                message = f"the body took more than {limits.client_seconds} seconds (--client_seconds)"
                raise Refusal(message, status=408) from None
        if size > limits.max_body_bytes:
            message = f"the body has more than {limits.max_body_bytes} bytes (--max_body_bytes)"
            raise Refusal(message, status=413)
        return bytes(content)

    async def _pieces(self, request: Request) -> AsyncIterator[tuple[int, str, str | None]]:
        """(choice, what is new of its text, why it ended or None), one choice after another."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.max_seconds
        try:
            async with asyncio.timeout_at(deadline):
                await self._active.acquire()
            try:
                for index, choice in enumerate(request.choices):
                    pieces = choice.pieces(self.languages[request.model], request)
                    while (text := await loop.run_in_executor(self._thread, next, pieces, None)) is not None:
                        if text:
                            yield index, text, None
                        if loop.time() > deadline:
                            raise TimeoutError
                    yield index, "", choice.finish_reason
            finally:
                self._active.release()
        except TimeoutError:
            message = f"not done in {self.limits.max_seconds} seconds (--max_seconds): ask for fewer tokens or texts"
            raise Refusal(message, status=504, field="max_tokens", code="timeout") from None

    async def _whole(self, request):
        texts, reasons = [[] for _ in request.choices], {}
        async with aclosing(self._pieces(request)) as pieces:
            async for index, text, reason in pieces:
                texts[index].append(text)
                reasons[index] = reason
        choices = [_choice(index, request.said("".join(text)), reasons[index]) for index, text in enumerate(texts)]
        return self._head(request, request.kind) | {"choices": choices, "usage": request.usage()}

    async def _events(self, request):
        head = self._head(request, request.kind_of_parts) | ({"usage": None} if request.include_usage else {})
        begun = set()
        try:
            async with aclosing(self._pieces(request)) as pieces:
                async for index, text, reason in pieces:
                    part = request.part(text, index not in begun)
                    begun.add(index)
                    yield _event(head | {"choices": [_choice(index, part, reason)]})
        except Refusal as refusal:  # the status has been sent
            yield _event(refusal.body)
            return
        if request.include_usage:
            yield _event(head | {"choices": [], "usage": request.usage()})
        yield "data: [DONE]\n\n"

    def _head(self, request, kind):
        return {
            "id": f"{request.prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": self.languages[request.model].sha256[:16],
        }


def _choice(index, said, reason):
    return {"index": index, **said, "logprobs": None, "finish_reason": reason}


def _event(record):
    return f"data: {json.dumps(record)}\n\n"


def answer(refusal: Refusal) -> Response:
    """A refusal in OpenAI's form of an error."""
    headers = {"retry-after": "1", "connection": "close"} if refusal.status == 503 else {}
    if refusal.status == 504:
        headers["x-should-retry"] = "false"  # OpenAI's clients would ask for the same again
    return JSONResponse(refusal.body, status_code=refusal.status, headers=headers)


def _of_path(request, error):
    asked = f"{request.method} {request.url.path:.80}"
    paths = "POST /v1/completions, POST /v1/chat/completions, GET /v1/models and GET /health"
    return Refusal(f"{asked}: there are {paths}", status=error.status_code)


async def _while_connected(http, work):
    """What a coroutine returns. Raises: ClientDisconnect once the client has gone, and the work ends there."""
    tasks = working, _ = asyncio.create_task(work), asyncio.create_task(_gone(http))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in tasks:
            task.cancel()


async def _gone(http):
    while (await http.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events, whose work ends with the connection and does not wait for the garbage collector."""

    async def stream_response(self, send):
        async with aclosing(self.body_iterator):
            await super().stream_response(send)


class Connection(H11Protocol):
    """One client's; cut where the head of a request, or the taking of a text, is waited for in vain."""

    def __init__(self, limits: Limits, **given):
        super().__init__(**given)
        self._limits, self._timer = limits, None

    def connection_made(self, transport):
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_clients:
            message = f"there are {self._limits.max_clients} clients already (--max_clients): try again"
            self.app = answer(Refusal(message, status=503, code="too_many_clients"))
        self._wait()

    def on_response_complete(self):
        super().on_response_complete()
        self._wait()

    def pause_writing(self):
        super().pause_writing()
        self._wait()

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self._timer.cancel()

    def _wait(self):
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self._limits.client_seconds, self._cut)

    def _cut(self):
        if self.flow.write_paused or self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class Server(uvicorn.Server):
    """One that ends at once: its clients find their connections cut."""

    async def shutdown(self, sockets=None):
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)
