"""python -m mixkabrn_run complete model.safetensors --prompt="The American people"

complete continues a prompt, score prints as JSON how many bits a byte of a text costs, chat goes on from line to line.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from mixkabrn_run.language import BACKENDS, load
from mixkabrn_run.native import Unavailable
from mixkabrn_run.sampling import Sampling


def main() -> int:
    """Runs a command line; the exit status."""
    options = _options()
    try:
        language = load(options.model, options.backend, options.threads)
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
    """Lines of the user and what the model makes of them, in one document; it is kept in --conversation."""
    kept = Path(options.conversation) if options.conversation else None
    if kept is not None and kept.exists():
        session = language.restore(kept.read_bytes())
        print(f"going on from {kept}, {session.position} tokens", file=sys.stderr)
    else:
        session = language.session()
    while True:
        try:
            line = input("> ")
        except EOFError:
            return 0
        _print(language.complete(f"{line}\n", session=session, **_drawing(options)))
        if kept is not None:
            kept.write_bytes(language.save(session))


def _print(pieces):
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _drawing(options):
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.min_p)
    return {"max_tokens": options.max_tokens, "sampling": sampling, "seed": options.seed}


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m mixkabrn_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for run, what in ((complete, "continue a prompt"), (score, "bits per byte of a text"), (chat, "line after line")):
        command = commands.add_parser(run.__name__, help=what)
        command.set_defaults(run=run)
        command.add_argument("model", help="file that experiments.export has written")
        command.add_argument("--backend", choices=BACKENDS, default="auto")
        command.add_argument("--threads", type=int, default=1, help="that share each step, of large models")
        if run is score:
            command.add_argument("text", help="file to read")
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
        command.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
