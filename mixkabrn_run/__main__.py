"""python -m mixkabrn_run complete model.safetensors --prompt="The American people"

complete continues a prompt, score prints as JSON how many bits a byte of a text costs, chat goes on from line to line,
serve answers OpenAI's clients over HTTP, about says where a model comes from. Without a file they are of the model that
comes with the package.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from mixkabrn_run import adapters
from mixkabrn_run.completions import Limits
from mixkabrn_run.language import BACKENDS, TINY, load
from mixkabrn_run.native import Unavailable
from mixkabrn_run.sampling import Sampling
from mixkabrn_run.stops import unescape


def main() -> int:
    """Runs a command line; the exit status."""
    options = _options()
    try:
        language = load(options.model, options.backend, options.threads)
        if options.run not in (serve, about):
            language = language.adapted(pair for _, pair in _adapters(language, options))
        return options.run(language, options)
    except (OSError, ValueError, Unavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def complete(language, options):
    _print(language.complete(options.prompt, **_drawing(options)))
    return 0


def score(language, options):
    text = Path(options.text).read_bytes()
    start = time.perf_counter()
    scored = language.score(text)
    seconds = time.perf_counter() - start
    print(json.dumps({**scored, "tokens_per_second": round(scored["tokens"] / seconds, 1)}))
    return 0


def chat(language, options):
    """Lines of the user and what the model makes of them, in one document; it is kept in --conversation.

    A model with a chat template is asked by it and answers; any other goes on with the line.
    """
    kept = Path(options.conversation) if options.conversation else None
    if kept is not None and kept.exists():
        session = language.restore(kept.read_bytes())
        print(f"going on from {kept}, {session.position} tokens", file=sys.stderr)
    else:
        session = language.session()
    drawing = _drawing(options)
    while True:
        try:
            line = input("> ")
        except EOFError:
            return 0
        if language.template is not None and line.strip():
            _print(language.answer([("user", line)], session=session, **drawing))
        elif language.template is None:
            # A space, as between sentences: a model of texts may never have seen a new line.
            text = f" {line}" if session.position else line
            _print(language.complete(text, session=session, **drawing))
        if kept is not None:
            partial = kept.with_name(f"{kept.name}.partial")  # whole or not at all
            partial.write_bytes(language.save(session))
            partial.replace(kept)


def serve(language, options):
    limits = Limits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Limits)})
    try:
        from mixkabrn_run import serve as http  # the one command that needs packages besides NumPy
    except ModuleNotFoundError as error:
        raise Unavailable(f"serve needs {error.name}: pip install starlette uvicorn") from None
    found, languages = _adapters(language, options), {Path(options.model).stem: language}
    for name, pair in found:
        if name in languages:
            raise ValueError(f"--adapter: there are two of the name {name}, and requests choose by it: rename a file")
        languages[name] = language.adapted([pair])
    if found:  # the first is what a request gets that chooses none
        languages = {"+".join(name for name, _ in found): language.adapted(pair for _, pair in found)} | languages
    http.run(languages, host=options.host, port=options.port, limits=limits)
    return 0


def about(language, options):  # noqa: ARG001
    """What the file says of itself, as JSON."""
    print(json.dumps({**language.about, "sha256": language.sha256, "model": language.config}, indent=2))
    return 0


def _adapters(language, options):
    """(name of the file, (adapter, weight)) of each that is asked for."""
    found = map(adapters.weighted, options.adapter)
    return [(path.stem, (language.adapter(path), weight)) for path, weight in found]


def _print(pieces):
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _drawing(options):
    fields = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    sampling = Sampling(**{name: getattr(options, name) for name in fields})
    stop = [unescape(text) for text in options.stop]
    return {"max_tokens": options.max_tokens, "sampling": sampling, "seed": options.seed, "stop": stop}


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m mixkabrn_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for run, what in (
        (complete, "continue a prompt"),
        (score, "bits per byte of a text"),
        (chat, "line after line"),
        (serve, "OpenAI's interface over HTTP"),
        (about, "what a model's file says of itself"),
    ):
        command = commands.add_parser(run.__name__, help=what)
        command.set_defaults(run=run)
        command.add_argument("model", nargs="?", default=TINY, help="file that experiments.export has written")
        command.add_argument("--backend", choices=BACKENDS, default="auto")
        command.add_argument("--threads", type=int, default=1, help="that share each step, of large models")
        if run is about:
            continue
        command.add_argument(
            "--adapter",
            action="append",
            default=[],
            metavar="FILE[:WEIGHT]",
            help="of experiments.export; again for each that is added",
        )
        if run is score:
            command.add_argument("text", help="file to read")
            continue
        if run is serve:
            command.add_argument(
                "--host", default="127.0.0.1", help="0.0.0.0 for other machines too: there is no password"
            )
            command.add_argument("--port", type=int, default=8000, help="0 for one that is free")
            for field in dataclasses.fields(Limits):
                command.add_argument(f"--{field.name}", type=int, default=field.default)
            continue
        if run is complete:
            command.add_argument("--prompt", default="")
        else:
            command.add_argument("--conversation", help="file to go on from, and to keep the conversation in")
        command.add_argument("--max_tokens", type=int, default=200)
        command.add_argument("--temperature", type=float, default=0.7, help="0 takes the most likely token each time")
        command.add_argument("--top_k", type=int, default=0)
        command.add_argument("--top_p", type=float, default=1.0)
        command.add_argument("--min_p", type=float, default=0.0)
        command.add_argument("--repetition_penalty", type=float, default=1.0, help="above 1: what was there is rarer")
        command.add_argument("--stop", action="append", default=[], help=r"text to end before; \n is a new line")
        command.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
