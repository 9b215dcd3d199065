"""The endpoint, over HTTP: what it answers, and clients that are slow, too many, or gone."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import pytest

from mixkabrn_run.language import load
from mixkabrn_run.sampling import Sampling
from tests.run.test_adapters import random_adapter
from tests.run.test_completions import toy_file

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

ENDLESS = {"n": 20_000, "max_tokens": 1000, "temperature": 2}  # a million steps of the model
LIMITS = {"max_choices": ENDLESS["n"], "max_body_bytes": 5000, "max_active": 2, "client_seconds": 60}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return toy_file(tmp_path_factory.mktemp("run"))


@contextlib.contextmanager
def serving(path, **flags):
    """(process, port) of a server, which is ended behind it."""
    command = [sys.executable, "-m", "mixkabrn_run", "serve", path, "--port=0"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stderr.readline()
            address = re.match(r"http://127\.0\.0\.1:(\d+)/v1 has (taught, )?toy", said)
            assert address, said + process.stderr.read()
            yield process, int(address[1])
        finally:
            process.kill()


@pytest.fixture(scope="module")
def port(path):
    with serving(path, **LIMITS) as (_, port):
        yield port


@contextlib.contextmanager
def posted(port, body=b"", *, num_bytes=None, read_buffer=None, **fields):
    """The socket of a request that has been sent, or as much of it as there is."""
    content = body or json.dumps(fields).encode()
    with socket.socket() as client:
        if read_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
        client.settimeout(30)
        client.connect(("127.0.0.1", port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {num_bytes or len(content)}\r\n\r\n"
        client.sendall(head.encode() + content)
        yield client


def everything(client):
    """What comes until the connection ends, one way or another."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            content += part
    return content


def ask(port, place="/v1/completions", **fields):
    """(status, what is answered)."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        if fields:
            connection.request("POST", place, json.dumps(fields))
        else:
            connection.request("GET", place)
        response = connection.getresponse()
        content = response.read()
    return response.status, content.decode() if fields.get("stream") else json.loads(content)


def events(text):
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]


def test_a_text_comes_whole_or_as_events_and_is_that_of_complete(port, path):
    fields = {"model": "toy", "prompt": "The toe", "max_tokens": 40, "temperature": 0.7, "seed": 3}
    want = "".join(load(path).complete("The toe", max_tokens=40, sampling=Sampling(0.7), seed=3))
    status, whole = ask(port, **fields)
    assert status == 200
    assert whole["object"] == "text_completion"
    (choice,) = whole["choices"]
    assert choice["text"] == want
    status, text = ask(port, **fields, stream=True, stream_options={"include_usage": True})
    *chunks, end, usage = events(text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == want
    assert len(chunks) == len(want)
    assert end["choices"] == [choice | {"text": ""}]
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]


def test_the_model_is_listed(port):
    status, listed = ask(port, "/v1/models")
    assert (status, [model["id"] for model in listed["data"]]) == (200, ["toy"])
    assert ask(port, "/v1/models/toy") == (200, listed["data"][0])
    assert ask(port, "/v1/models/other")[0] == 404
    assert ask(port, "/health") == (200, {"status": "ok"})


def test_a_request_chooses_by_the_name_of_the_model_what_is_beside_it(path, tmp_path):
    adapter, fields = tmp_path / "taught.safetensors", {"prompt": "The toe", "max_tokens": 20, "temperature": 0}
    adapter.write_bytes(random_adapter(path.read_bytes()))
    base = load(path)
    languages = {"toy": base, "taught": base.adapted([(base.adapter(adapter), 0.5)])}
    want = {
        name: "".join(language.complete("The toe", max_tokens=20, sampling=Sampling(0)))
        for name, language in languages.items()
    }
    assert want["toy"] != want["taught"]
    with serving(path, adapter=f"{adapter}:0.5") as (_, port):
        assert [model["id"] for model in ask(port, "/v1/models")[1]["data"]] == ["taught", "toy"]
        for given, name in (({}, "taught"), ({"model": "taught"}, "taught"), ({"model": "toy"}, "toy")):
            answered = ask(port, **fields, **given)[1]
            assert (answered["model"], answered["choices"][0]["text"]) == (name, want[name])
        refused = ask(port, **fields, model="other")[1]["error"]["message"]
        assert refused == "model='other': this server has 'taught', 'toy'"


@pytest.mark.parametrize(
    ("place", "fields", "status", "field"),
    [
        ("/v1/completions", {"n": 0}, 400, "n"),
        ("/v1/completions", {"prompt": "e" * 5000}, 413, None),
        ("/v1/completions", {}, 405, None),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
    ],
)
def test_errors_are_in_the_form_of_openai(port, place, fields, status, field):
    found, body = ask(port, place, **fields)
    assert found == status
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["param"] == field


def test_a_long_request_does_not_hold_up_a_short_one(port):
    with posted(port, **ENDLESS, stream=True) as long:
        assert b"200 OK" in long.recv(100)
        assert ask(port, prompt="The", max_tokens=20)[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_goes_makes_room_at_once(port, stream):
    with contextlib.ExitStack() as clients:
        for _ in range(LIMITS["max_active"]):
            clients.enter_context(posted(port, **ENDLESS, stream=stream))
        time.sleep(0.3)
    assert ask(port, max_tokens=5)[0] == 200


@pytest.fixture(scope="module")
def hasty(path):
    """The port of a server that waits for nobody, and has room for two."""
    with serving(path, max_choices=ENDLESS["n"], max_clients=2, max_seconds=1, client_seconds=1) as (_, port):
        yield port


def test_a_request_out_of_time_is_told(hasty):
    status, whole = ask(hasty, **ENDLESS)
    assert status == 504
    assert "1 seconds (--max_seconds)" in whole["error"]["message"]
    _, text = ask(hasty, **ENDLESS, stream=True)
    assert json.loads(text.rstrip().rpartition("data: ")[2]) == whole  # the last event, and no [DONE]


def test_a_slow_sender_is_cut(hasty):
    with posted(hasty, b"{", num_bytes=100) as client:
        answer = everything(client)
    assert b" 408 " in answer[:20]
    assert b"--client_seconds" in answer
    with socket.create_connection(("127.0.0.1", hasty), timeout=30) as client:
        client.sendall(b"POST /v1")
        assert everything(client) == b""


def test_a_slow_reader_is_cut(path):
    limits = {"max_choices": ENDLESS["n"], "max_active": 1, "client_seconds": 1}
    with serving(path, **limits) as (_, port), posted(port, **ENDLESS, stream=True, read_buffer=4096) as client:
        assert b"200 OK" in client.recv(100)
        assert ask(port, max_tokens=5)[0] == 200  # its turn has come


def test_clients_beyond_the_limit_are_told_to_come_again(hasty):
    with contextlib.ExitStack() as clients:
        for _ in range(2):
            clients.enter_context(socket.create_connection(("127.0.0.1", hasty)))
        status, body = ask(hasty, max_tokens=5)
    assert status == 503
    assert "2 clients already (--max_clients)" in body["error"]["message"]
    while ask(hasty, max_tokens=5)[0] != 200:
        time.sleep(0.1)


def test_an_interrupt_ends_it_at_once_and_without_a_word(path):
    with (
        serving(path, **LIMITS) as (process, port),
        posted(port, **ENDLESS) as _,
        posted(port, **ENDLESS, stream=True) as _,
        posted(port, b"{", num_bytes=10) as _,
    ):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""


def test_a_port_in_use_is_an_error_of_one_line(port, path):
    command = [sys.executable, "-m", "mixkabrn_run", "serve", path, f"--port={port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --host=127.0.0.1 --port={port}: Address already in use")
    assert done.stderr.count("\n") == 1


def test_the_official_client_talks_to_it(port, path):
    openai = pytest.importorskip("openai")
    want = "".join(load(path).complete("The toe", max_tokens=40, sampling=Sampling(0.7), seed=3))
    fields = {"model": "toy", "prompt": "The toe", "max_tokens": 40, "temperature": 0.7, "seed": 3}
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["toy"]
        whole = client.completions.create(**fields)
        assert whole.choices[0].text == want
        assert whole.usage.prompt_tokens == 7
        chunks = list(client.completions.create(**fields, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == want
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        with pytest.raises(openai.BadRequestError, match=r"top_p=2\.0: more than 0"):
            client.completions.create(**fields, top_p=2)
        greedy = client.completions.create(**fields | {"temperature": 1.0}, extra_body={"top_k": 1})
        assert greedy.choices[0].text == "".join(load(path).complete("The toe", max_tokens=40, sampling=Sampling(0)))
