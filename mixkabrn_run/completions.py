"""What a request for completions, or for an answer in a chat, asks for in OpenAI's fields, and its texts, one step of
the model after another.

What is not given is as OpenAI has it: 16 tokens, temperature 1, a seed by chance. `top_k` and `min_p` are ours.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields

from mixkabrn_run.chat import NONE, Template
from mixkabrn_run.language import Language
from mixkabrn_run.sampling import NUM_SEEDS, Sampling

NEUTRAL = {
    "suffix": "",
    "logit_bias": {},
    "logprobs": None,
    "best_of": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
}
"""Fields that may be given, as null or as what changes nothing."""
NEUTRAL_IN_CHAT = {
    **{field: NEUTRAL[field] for field in ("logit_bias", "frequency_penalty", "presence_penalty")},
    "logprobs": False,
    "response_format": {"type": "text"},
    "store": False,
    "tools": [],
}


@dataclass(frozen=True)
class Limits:
    """What a server gives to one request and to all; each is a flag of the same name."""

    max_body_bytes: int = 1 << 18
    max_prompt_tokens: int = 2048
    """Of each prompt."""
    max_tokens: int = 2048
    """Of each choice."""
    max_choices: int = 16
    """Texts of one request: prompts times n."""
    max_active: int = 8
    """Requests that are written by turns; the others wait."""
    max_clients: int = 64
    """Connections, those that wait among them."""
    max_seconds: int = 300
    """From a request's end to the last of its tokens, waiting included."""
    client_seconds: int = 10
    """For a client to send its request, and to take text that is ready for it."""

    def __post_init__(self):
        for field in fields(self):
            if (value := getattr(self, field.name)) < 1:
                raise ValueError(f"--{field.name}={value}: 1 or more is needed")


class Refusal(Exception):
    """Why a request is not answered: an HTTP status, a sentence and, where there is one, the field it is about."""

    def __init__(self, message: str, *, status: int = 400, field: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": field, "code": code}}


class Choice:
    """One of the texts that a request asks for."""

    def __init__(self, prompt: str, tokens: list[int], seed: int):
        """tokens: the prompt's."""
        self.prompt, self.tokens, self.seed = prompt, tokens, seed
        self.num_tokens = 0
        """Those written, once `pieces` has ended."""
        self.finish_reason = "length"
        """"stop" where the document or a stop string ended it."""

    def pieces(self, language: Language, request: "Request") -> Iterator[str]:
        """What is new of the text after each step of the model: nothing while it reads the prompt."""
        session = language.session(len(self.tokens) + request.max_tokens + 1)
        language.read((), session)
        yield self.prompt if request.echo else ""
        for token in self.tokens:
            language.read((token,), session)
            yield ""
        start = session.position
        options = {"max_tokens": request.max_tokens, "sampling": request.sampling, "stop": request.stop}
        is_stopped = yield from request.text(language.complete("", seed=self.seed, session=session, **options))
        self.num_tokens = session.position - start
        if is_stopped or self.num_tokens < request.max_tokens:
            self.finish_reason = "stop"


@dataclass(frozen=True)
class Request:
    """A request's fields that have been checked."""

    model: str
    choices: list[Choice]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    echo: bool
    stream: bool
    include_usage: bool

    kind, kind_of_parts, prefix = "text_completion", "text_completion", "cmpl"
    """OpenAI's names for what answers it, whole and in parts, and how an id of such begins."""

    def text(self, pieces: Iterator[str]) -> Iterator[str]:
        """What is told of a text that the model writes. Returns: what the pieces return."""
        return pieces

    def said(self, text: str) -> dict:
        """The fields of a choice that tell all of its text."""
        return {"text": text}

    def part(self, text: str, is_first: bool) -> dict:  # noqa: ARG002
        """The fields of a choice that tell what is new of its text."""
        return {"text": text}

    def usage(self) -> dict[str, int]:
        """The tokens read and written; a prompt counts once, however many texts follow it."""
        read = sum(len(tokens) for tokens in {id(choice.tokens): choice.tokens for choice in self.choices}.values())
        written = sum(choice.num_tokens for choice in self.choices)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


@dataclass(frozen=True)
class ChatRequest(Request):
    """One for what the assistant says next."""

    template: Template

    kind, kind_of_parts, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def text(self, pieces):
        return self.template.answer(pieces)

    def said(self, text):
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, text, is_first):
        return {"delta": ({"role": "assistant"} if is_first else {}) | ({"content": text} if text or is_first else {})}


def parse(body: bytes, languages: dict[str, Language], limits: Limits) -> Request:
    """The request of a body.

    Args:
        languages: by name; the first is for who names none.
    Raises: `Refusal`, naming the field and what would be right.
    """
    given, language = _known_fields(body, languages, _KNOWN, NEUTRAL)
    texts = _texts(given, "prompt", "", limits.max_choices)
    prompts = [(text, _encoded(text, language, limits, "prompt")) for text in texts]
    echo = _typed(given, "echo", False, bool, "true or false")
    return Request(**_fields(given, prompts, limits, 16), echo=echo)


def parse_chat(body: bytes, languages: dict[str, Language], limits: Limits) -> ChatRequest:
    """As `parse`, of a conversation; without a limit it may have as many tokens as the server gives."""
    given, language = _known_fields(body, languages, _KNOWN_IN_CHAT, NEUTRAL_IN_CHAT)
    if language.template is None:
        raise Refusal(f"{NONE}; ask /v1/completions", field="messages")
    try:
        prompt = language.template.prompt(_messages(given))
    except ValueError as error:
        raise Refusal(f"messages: {error}", field="messages") from None
    fields = _fields(given, [(prompt, _encoded(prompt, language, limits, "messages"))], limits, limits.max_tokens)
    fields["stop"] += (language.template.stop,)
    return ChatRequest(**fields, echo=False, template=language.template)


def _fields(given, prompts, limits, max_tokens):
    """Those of a `Request` that all of them have.

    Args:
        prompts: (text, tokens) of each.
        max_tokens: where no number is given.
    """
    stop = tuple(_texts(given, "stop", [], 4))
    if "" in stop:
        raise Refusal("stop='': a string of at least one character is needed", field="stop")
    n = _integer(given, "n", 1, 1, limits.max_choices, "--max_choices")
    if len(prompts) * n > limits.max_choices:
        raise Refusal(
            f"n={n}: with {len(prompts)} prompts at most {limits.max_choices} texts (--max_choices)", field="n"
        )
    options = _typed(given, "stream_options", {}, dict, "an object")
    if wrong := options.keys() - {"include_usage"}:
        raise Refusal(f"stream_options has {sorted(wrong)}: only include_usage is known", field="stream_options")
    _typed(given, "user", "", str, "a string")
    seed = _integer(given, "seed", secrets.randbelow(NUM_SEEDS), 0, NUM_SEEDS - 1)
    limit = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    return {
        "model": given["model"],
        "choices": [Choice(*prompt, (seed + i) % NUM_SEEDS) for prompt in prompts for i in range(n)],
        "max_tokens": _integer(given, limit, max_tokens, 0, limits.max_tokens, "--max_tokens"),
        "sampling": _sampling(given),
        "stop": stop,
        "stream": _typed(given, "stream", False, bool, "true or false"),
        "include_usage": _typed(options, "include_usage", False, bool, "true or false"),
    }


_OF_BOTH = {
    *("model", "max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "n", "stop"),
    *("stream", "stream_options", "user"),
}
_KNOWN = {*_OF_BOTH, "prompt", "echo"}
_KNOWN_IN_CHAT = {*_OF_BOTH, "messages", "max_completion_tokens"}


def _known_fields(body, languages, known, neutral):
    """(the fields that are given, null and those that change nothing left out; the language of their `model`)."""
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the body is no JSON: {error}") from None
    if not isinstance(record, dict):
        raise Refusal(f"the body is {record!r:.80}: a JSON object is needed")
    given = {"model": next(iter(languages))} | {field: value for field, value in record.items() if value is not None}
    for field, value in given.items():
        if field in neutral and value != neutral[field]:
            raise Refusal(f"{field}={value!r:.80}: not supported; leave it out", field=field)
        if field not in known and field not in neutral:
            raise Refusal(f"{field:.80}: not supported; there are {', '.join(sorted(known))}", field=field[:80])
    if not isinstance(given["model"], str) or given["model"] not in languages:
        message = f"model={given['model']!r:.80}: this server has {', '.join(map(repr, languages))}"
        raise Refusal(message, status=404, field="model", code="model_not_found")
    return given, languages[given["model"]]


def _messages(given):
    """Raises: Refusal for what are no messages of texts."""
    messages = given.get("messages", [])
    if not isinstance(messages, list):
        raise Refusal(f"messages={messages!r:.80}: a list is needed", field="messages")
    for message in messages:
        texts = [message.get("role"), message.get("content")] if isinstance(message, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise Refusal(f"messages has {message!r:.80}: role and content are needed, both texts", field="messages")
    return [(message["role"], message["content"]) for message in messages]


def _typed(given, field, default, kind, what):
    value = given.get(field, default)
    # A bool is an int to Python, and no number to JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Refusal(f"{field}={value!r:.80}: {what} is needed", field=field)
    return value


def _integer(given, field, default, low, high, flag=""):
    value = _typed(given, field, default, int, f"{low} to {high}")
    if not low <= value <= high:
        raise Refusal(f"{field}={value!r:.80}: {low} to {high} is needed{flag and f' ({flag})'}", field=field)
    return value


def _texts(given, field, default, most):
    value = given.get(field, default)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refusal(f"{field}={value!r:.80}: a string or a list of strings is needed", field=field)
    if len(texts) > most or (field in given and not texts):
        raise Refusal(f"{field} has {len(texts)} strings: 1 to {most} are needed", field=field)
    return texts


def _sampling(given):
    try:
        return Sampling(
            temperature=float(_typed(given, "temperature", 1.0, int | float, "a number")),
            top_k=_typed(given, "top_k", 0, int, "a whole number"),
            top_p=float(_typed(given, "top_p", 1.0, int | float, "a number")),
            min_p=float(_typed(given, "min_p", 0.0, int | float, "a number")),
        )
    except (ValueError, OverflowError) as error:
        field = str(error).partition("=")[0]
        raise Refusal(str(error), field=field if field in given else None) from None


def _encoded(prompt, language, limits, field):
    try:
        tokens = language.tokenizer.encode(prompt)
    except ValueError as error:
        raise Refusal(f"{field}: {error}", field=field) from None
    if len(tokens) > limits.max_prompt_tokens:
        raise Refusal(
            f"{field} has {len(tokens)} tokens: at most {limits.max_prompt_tokens} are read (--max_prompt_tokens)",
            field=field,
            code="context_length_exceeded",
        )
    return tokens
