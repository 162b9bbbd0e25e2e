"""A small OpenAI-compatible server on loopback, for tests, benchmarks and the demo.

    with OpenAIServer(latency=0.2) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="none")

It answers at once or after a delay, costs nothing, and its answers are a function of the request:
requests that a model may answer differently get different answers, so that a test can tell whose
answer it was given.
"""

from __future__ import annotations

import base64
import json
import random
import re
import socket
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from hashlib import blake2b, shake_128
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import numpy as np

__all__ = ["OpenAIServer", "embed", "example"]

_DIMENSIONS = {"text-embedding-3-large": 3072}
_DEFAULT_DIMENSIONS = 1536
_KEPT_REQUESTS = 10_000
# What a provider's answer does not depend on.
_INVISIBLE = {
    "metadata",
    "n",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "user",
}

Json = dict[str, Any]


class OpenAIServer:
    """Chat completions, completions and embeddings over HTTP, in threads of this process.

    - The text of an answer is `[<hash of the visible request>] <last user text>`, or what
      `answer` makes of the last user text. Ids of tool calls do not change the hash.
    - With tools: a user turn that has a word of a tool's name in it (or "weather": then the first
      tool) gets a call of it, with a random id and arguments that fit its schema; so does a
      request with a forced `tool_choice`. After a tool's result the answer repeats that result.
    - With a JSON schema as `response_format` the answer is an object that fits it.
    - `max_tokens` cuts the answer short (finish_reason "length").

    Args:
        latency: seconds until an answer, or the first chunk of a stream.
        answer: makes the text of an answer from the last user text.
        jitter: up to so many seconds more, at random.
        token_latency: seconds between two chunks of a stream.
        port: 0 for a free one.
    """

    def __init__(
        self,
        latency: float = 0.0,
        answer: Callable[[str], str] | None = None,
        *,
        jitter: float = 0.0,
        token_latency: float = 0.0,
        port: int = 0,
    ) -> None:
        self.latency = latency
        self.answer = answer
        self.jitter = jitter
        self.token_latency = token_latency
        self.port = port
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._requests: deque[Json] = deque(maxlen=_KEPT_REQUESTS)
        self._failures: deque[int] = deque()
        self._cuts: deque[int] = deque()
        self._reasons: deque[str] = deque()
        self._created = 0
        self._http: _Http | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> int:
        """Requests received since the start or `reset()`, those made to fail included."""
        with self._lock:
            return self._calls.total()

    def calls_to(self, endpoint: str) -> int:
        """`calls` of one endpoint: "chat/completions", "completions" or "embeddings"."""
        with self._lock:
            return self._calls[endpoint]

    @property
    def requests(self) -> list[Json]:
        """The parsed bodies of the last 10,000 requests, oldest first."""
        with self._lock:
            return list(self._requests)

    def fail_next(self, status: int, times: int = 1) -> None:
        """Answer the next requests with this HTTP status and an error."""
        with self._lock:
            self._failures.extend([status] * times)

    def cut_next_stream(self, after: int = 2, times: int = 1) -> None:
        """Break the connection of the next streams after so many chunks."""
        with self._lock:
            self._cuts.extend([after] * times)

    def finish_next(self, reason: str, times: int = 1) -> None:
        """Give the next completions this finish_reason, such as "content_filter"."""
        with self._lock:
            self._reasons.extend([reason] * times)

    def reset(self) -> None:
        """Forget calls, requests and what was to fail."""
        with self._lock:
            self._calls.clear()
            for queue in (self._requests, self._failures, self._cuts, self._reasons):
                queue.clear()

    def start(self) -> None:
        if self._http is None:
            self._http = _Http(("127.0.0.1", self.port), self)
            self.port = self._http.server_address[1]
            threading.Thread(
                target=self._http.serve_forever, args=(0.02,), name="openai-server", daemon=True
            ).start()

    def stop(self) -> None:
        """Close the port and all connections."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # What a handler asks for, in this order.

    def _received(self, endpoint: str, body: Json) -> int | None:
        """Count a request; the status to fail it with, or None."""
        with self._lock:
            self._calls[endpoint] += 1
            self._requests.append(body)
            failure = self._failures.popleft() if self._failures else None
        if delay := self.latency + random.uniform(0, self.jitter):
            time.sleep(delay)
        return failure

    def _header(self, kind: str, prefix: str, body: Json) -> Json:
        with self._lock:
            self._created = max(int(time.time()), self._created + 1)
            created = self._created
        name = f"{prefix}-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": created, "model": body["model"]}

    def _cut(self) -> int | None:
        with self._lock:
            return self._cuts.popleft() if self._cuts else None

    def _text(self, prompt: str, body: Json) -> str:
        return self.answer(prompt) if self.answer else f"[{_digest(body)}] {prompt}"

    def _choice(self, i: int, message: Json, reason: str, limit: int | None) -> Json:
        """One choice, cut to `limit` tokens."""
        tokens = _tokens(message.get("content") or "")
        if limit is not None and len(tokens) > limit:
            message, reason = message | {"content": "".join(tokens[:limit])}, "length"
        with self._lock:
            reason = self._reasons.popleft() if self._reasons else reason
        return {"index": i, "message": message, "logprobs": None, "finish_reason": reason}

    def _chat(self, body: Json) -> list[Json]:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        message = self._message(body)
        reason = "tool_calls" if "tool_calls" in message else "stop"
        return [self._choice(i, message, reason, limit) for i in range(body.get("n") or 1)]

    def _message(self, body: Json) -> Json:
        message: Json = {"role": "assistant", "content": None, "refusal": None}
        prompt = _last_user_text(body["messages"])
        if called := _tools_to_call(body, prompt):
            return message | {"tool_calls": [_tool_call(tool, prompt) for tool in called]}
        results = _tool_results(body["messages"])
        wanted = body.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            content = json.dumps(example(wanted["json_schema"]["schema"], prompt))
        elif wanted.get("type") == "json_object":
            content = json.dumps({"answer": self._text(prompt, body)})
        elif results:
            content = self._text(f"{prompt} - {'; '.join(results)}", body)
        else:
            content = self._text(prompt, body)
        return message | {"content": content}

    def _completions(self, body: Json) -> list[Json]:
        choices: list[Json] = []
        for prompt in _texts(body["prompt"]):
            for _ in range(body.get("n") or 1):
                content = self._text(prompt, body | {"prompt": prompt})
                message = {"content": content}
                choices.append(self._choice(len(choices), message, "stop", body.get("max_tokens")))
        return choices


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], owner: OpenAIServer) -> None:
        self.owner = owner
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self.socket.close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)  # ends the thread that reads from it
            except OSError:
                continue  # the client was faster
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to say about clients that hang up: tests do that."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": []})
        else:
            self._fail(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        owner = self.server.owner
        endpoint = self.path.partition("?")[0].removeprefix("/v1/")
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = {
            "chat/completions": self._chat,
            "completions": self._completions,
            "embeddings": self._embeddings,
        }.get(endpoint)
        if answer is None:
            return self._fail(404, f"no such path: {self.path}")
        try:
            body: Json = json.loads(content)
        except ValueError:
            return self._fail(400, "the body is not JSON")
        if failure := owner._received(endpoint, body):
            return self._fail(failure, f"made to fail with {failure}")
        try:
            return answer(owner, body)
        except (KeyError, TypeError, IndexError) as error:
            return self._fail(400, f"bad request: {error!r}")

    def _chat(self, owner: OpenAIServer, body: Json) -> None:
        choices = owner._chat(body)
        usage = _usage(body["messages"], [choice["message"] for choice in choices])
        if not body.get("stream"):
            header = owner._header("chat.completion", "chatcmpl", body)
            return self._send(200, header | {"choices": choices, "usage": usage})
        header = owner._header("chat.completion.chunk", "chatcmpl", body)
        return self._stream(owner, body, header, _chat_chunks(choices), usage)

    def _completions(self, owner: OpenAIServer, body: Json) -> None:
        header = owner._header("text_completion", "cmpl", body)
        choices = owner._completions(body)
        usage = _usage(body["prompt"], [choice["message"] for choice in choices])
        if body.get("stream"):
            return self._stream(owner, body, header, _completion_chunks(choices), usage)
        plain = [choice | {"text": choice.pop("message")["content"]} for choice in choices]
        return self._send(200, header | {"choices": plain, "usage": usage})

    def _embeddings(self, owner: OpenAIServer, body: Json) -> None:
        texts, model = _texts(body["input"]), body["model"]
        data = []
        for i, text in enumerate(texts):
            vector: Any = embed(text, model, body.get("dimensions"))
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            else:
                vector = vector.tolist()
            data.append({"object": "embedding", "index": i, "embedding": vector})
        tokens = sum(len(_tokens(text)) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self._send(200, {"object": "list", "data": data, "model": model, "usage": usage})

    def _stream(
        self, owner: OpenAIServer, body: Json, header: Json, choices: Iterator[Json], usage: Json
    ) -> None:
        counted = (body.get("stream_options") or {}).get("include_usage")
        extra = {"usage": None} if counted else {}
        cut = owner._cut()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i, choice in enumerate(choices):
            if i == cut:
                self.close_connection = (
                    True  # without the last chunk: the client sees a broken body
                )
                return
            if i and owner.token_latency:
                time.sleep(owner.token_latency)
            self._event(json.dumps(header | extra | {"choices": [choice]}))
        if counted:
            self._event(json.dumps(header | {"choices": [], "usage": usage}))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()

    def _fail(self, status: int, message: str) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": None}
        self._send(status, {"error": error})

    def _send(self, status: int, body: Json) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 429 or status >= 500:
            self.send_header("Retry-After-Ms", "1")  # clients that retry need not wait
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


def embed(text: str, model: str, dimensions: int | None = None) -> np.ndarray[Any, Any]:
    """A float32 unit vector: the sum of pseudo-random vectors of the words of the text.

    So texts that share words are near each other. As with OpenAI's models, fewer dimensions are
    the first ones of the full vector, scaled to length 1.
    """
    size = dimensions or _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    total = np.zeros(size)
    for word in re.findall(r"\w+", text.lower()) or [text]:
        seed = f"{model}/{word}".encode()
        total += np.frombuffer(shake_128(seed).digest(4 * size), "<i4")
    return (total / np.linalg.norm(total)).astype(np.float32)


def example(schema: Json, text: str) -> Any:
    """A value that fits a JSON schema and depends on nothing but the schema and the text.

    Strings are taken from the text. `pattern` is not looked at.
    """
    return _Example(schema, text).make(schema, 0)


class _Example:
    _DEEP = 5

    def __init__(self, root: Json, text: str) -> None:
        self._root = root
        self._text = text
        self._number = int(_hash(text), 16)

    def make(self, schema: Json, depth: int) -> Any:
        if "$ref" in schema:
            return self.make(self._find(schema["$ref"]), depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][self._number % len(schema["enum"])]
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self._any(schema[several], depth)
        if "allOf" in schema:
            return self._all(schema["allOf"], depth)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            return self._any([schema | {"type": each} for each in kind], depth)
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number":
                return self._a_number(schema, whole=kind == "integer")
            case "boolean":
                return self._number % 2 == 0
            case "null":
                return None
            case _:
                return self._a_string(schema)

    def _find(self, reference: str) -> Json:
        found = self._root
        for part in reference.removeprefix("#").split("/"):
            found = found[part] if part else found
        return found

    def _any(self, schemas: list[Json], depth: int) -> Any:
        empty = [schema for schema in schemas if schema.get("type") == "null"]
        full = [schema for schema in schemas if schema.get("type") != "null"]
        return self.make((empty + full if depth > self._DEEP else full + empty)[0], depth)

    def _all(self, schemas: list[Json], depth: int) -> Any:
        made = [self.make(schema, depth) for schema in schemas]
        if not all(isinstance(each, dict) for each in made):
            return made[0]
        return {key: value for each in made for key, value in each.items()}

    def _object(self, schema: Json, depth: int) -> Json:
        properties: Json = schema.get("properties", {})
        wanted = schema.get("required", []) if depth > self._DEEP else properties
        return {key: self.make(properties.get(key, {}), depth + 1) for key in wanted}

    def _array(self, schema: Json, depth: int) -> list[Any]:
        least = int(schema.get("minItems", 0))
        # Without a schema of the items (a recursive one, cut off by a framework): none.
        most = min(1, schema.get("maxItems", 1)) if schema.get("items") else 0
        length = least if depth > self._DEEP else max(least, most)
        fixed = schema.get("prefixItems", [])
        kinds = fixed + [schema.get("items", {})] * max(0, length - len(fixed))
        return [self.make(each, depth + 1) for each in kinds]

    def _a_number(self, schema: Json, *, whole: bool) -> float:
        step = schema.get("multipleOf", 1 if whole else 0.5)
        low, high = schema.get("minimum"), schema.get("maximum")
        if (above := schema.get("exclusiveMinimum")) is not None:
            low = max(above + step, above + step if low is None else low)
        if (below := schema.get("exclusiveMaximum")) is not None:
            high = min(below - step, below - step if high is None else high)
        if low is None:
            low = 0 if high is None else min(0, high)
        first = -(-low // step)
        last = first + 99 if high is None else high // step
        value = (first + self._number % (int(last - first) + 1 if last >= first else 1)) * step
        return int(value) if whole else float(value)

    def _a_string(self, schema: Json) -> str:
        fixed = {
            "date": "2024-02-29",
            "time": "12:00:00Z",
            "date-time": "2024-02-29T12:00:00Z",
            "email": "someone@example.com",
            "uri": "https://example.com/",
            "uuid": str(uuid.UUID(int=self._number)),
        }
        if (form := schema.get("format")) in fixed:
            return fixed[form]
        value = _subject(self._text).ljust(schema.get("minLength", 0), ".")
        return value[: schema.get("maxLength", 200)]


def _subject(text: str) -> str:
    """The last capitalised word that does not begin the text ("Paris"), or else the text."""
    names: list[str] = re.findall(r"(?<=\s)[A-Z]\w+", text)
    return names[-1] if names else text


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _digest(body: Json) -> str:
    """Hash of all that a model may base its answer on; tool-call ids count by their order only."""
    visible = {key: value for key, value in body.items() if key not in _INVISIBLE}
    text = json.dumps(visible, sort_keys=True)
    messages = body.get("messages", [])
    calls = [call for message in messages for call in message.get("tool_calls") or []]
    for i, call in enumerate(calls):
        text = text.replace(json.dumps(call["id"]), f'"call-{i}"')
    return _hash(text)


def _content(message: Json) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")


def _last_user_text(messages: list[Json]) -> str:
    said = [_content(message) for message in messages if message["role"] == "user"]
    return said[-1] if said else ""


def _tool_results(messages: list[Json]) -> list[str]:
    """What the tool messages at the end of the conversation say."""
    results: list[str] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        results.insert(0, _content(message))
    return results


def _tools_to_call(body: Json, prompt: str) -> list[Json]:
    tools = [tool["function"] for tool in body.get("tools") or []]
    choice = body.get("tool_choice") or "auto"
    if not tools or choice == "none":
        return []
    if isinstance(choice, dict):
        return [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    named = [tool for tool in tools if _named(tool["name"], prompt)]
    if body["messages"][-1]["role"] != "user":
        named = []
    elif not named and "weather" in prompt.lower():
        named = tools[:1]
    if choice == "required" and not named:
        named = tools[:1]
    return named if body.get("parallel_tool_calls", True) else named[:1]


def _named(name: str, prompt: str) -> bool:
    words = re.findall(r"[A-Z]?[a-z]+", name)
    return any(len(word) > 3 and word.lower() in prompt.lower() for word in words)


def _tool_call(tool: Json, prompt: str) -> Json:
    arguments = json.dumps(example(tool.get("parameters") or {"type": "object"}, prompt))
    function = {"name": tool["name"], "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _tokens(text: str) -> list[str]:
    """The text in pieces of up to five letters, about as many as a tokenizer would make."""
    return re.findall(r"\s*\S{1,5}|\s+", text)


def _usage(request: Any, messages: list[Json]) -> Json:
    sent = len(_tokens(json.dumps(request)))
    made = sum(
        len(_tokens((message.get("content") or "") + json.dumps(message.get("tool_calls", ""))))
        for message in messages
    )
    return {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}


def _texts(given: Any) -> list[str]:
    """The texts of `input` or `prompt`: one or several, each a string or a list of token ids."""
    several = isinstance(given, list) and not all(isinstance(each, int) for each in given)
    texts = given if several else [given]
    return [each if isinstance(each, str) else " ".join(map(str, each)) for each in texts]


def _chat_chunks(choices: list[Json]) -> Iterator[Json]:
    def chunk(choice: Json, delta: Json, reason: str | None = None) -> Json:
        return {"index": choice["index"], "delta": delta, "finish_reason": reason}

    for choice in choices:
        message = choice["message"]
        yield chunk(choice, {"role": "assistant", "content": "" if message["content"] else None})
        for token in _tokens(message["content"] or ""):
            yield chunk(choice, {"content": token})
        for i, call in enumerate(message.get("tool_calls", [])):
            function = call["function"]
            first = call | {"index": i, "function": function | {"arguments": ""}}
            yield chunk(choice, {"tool_calls": [first]})
            for token in _tokens(function["arguments"]):
                piece = {"index": i, "function": {"arguments": token}}
                yield chunk(choice, {"tool_calls": [piece]})
        yield chunk(choice, {}, choice["finish_reason"])


def _completion_chunks(choices: list[Json]) -> Iterator[Json]:
    for choice in choices:
        for token in _tokens(choice["message"]["content"]):
            yield {"index": choice["index"], "text": token, "finish_reason": None}
        reason = choice["finish_reason"]
        yield {"index": choice["index"], "text": "", "finish_reason": reason}
