"""A trained model as a folder for the Hugging Face hub: its file, config, tokenizer, and a card that tells of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mixkabrn_jax.data.tokenizers import Subwords, Tokenizer
from mixkabrn_jax.models.language import LanguageModel, count_parameters
from mixkabrn_jax.runs import model_file


@dataclass(frozen=True)
class Origin:
    """How a model came about."""

    command: str
    """That trains it."""
    learnt_from: str
    """In a few words."""
    data: Mapping[str, str]
    """What identifies each part of the data, as `Corpus.fingerprints`."""
    validation: Mapping[str, float]
    """The last score of held-out texts: `step`, `tokens`, `loss`, `bits_per_byte`; empty where there is none."""
    language: str = ""
    """Of the texts, as the hub names it; "" where it is not known."""
    license: str = ""
    """Of the weights, as the hub names it; "" where none was chosen."""


def files(
    title: str, model: LanguageModel, tokenizer: Tokenizer, config: Mapping, content: bytes, origin: Origin
) -> dict[str, bytes]:
    """What belongs in the folder, by name.

    Args:
        title: of the card.
        config: that of the run.
        content: the model's file, as `model_file.to_bytes` gives it.
    """
    ends = {"bos_token_id": tokenizer.separator, "eos_token_id": tokenizer.separator}
    about = {"model_type": "mixkabrn", "vocab_size": tokenizer.vocab_size, **ends}
    found = {
        "model.safetensors": content,
        "config.json": _json({**about, **config}),
        "README.md": _card(title, model, tokenizer, content, origin).encode(),
    }
    if isinstance(tokenizer, Subwords):
        # Not the separator: it is no piece of text, and none is to become it.
        found["tokenizer.json"] = _json(tokenizer.to_json()["tokenizer"])
        chat = {"chat_template": _jinja(tokenizer.template)} if tokenizer.template else {}
        found["tokenizer_config.json"] = _json({"tokenizer_class": "PreTrainedTokenizerFast", **chat})
    return found


def _jinja(template):
    """The text of a conversation as `transformers` makes it; a prompt needs nothing behind the last message."""
    texts = {role: tuple(map(json.dumps, texts)) for role, texts in template._asdict().items()}
    roles = "".join(
        f"{{% if message.role == '{role}' %}}{{{{ {before} + message.content + {behind} }}}}{{% endif %}}"
        for role, (before, behind) in texts.items()
    )
    return f"{{% for message in messages %}}{roles}{{% endfor %}}"


def push(folder: Path, name: str) -> str:
    """Uploads a folder as the model `owner/name` of the hub, which is made where there is none. Returns its address.

    Raises: ImportError where huggingface_hub is not installed; OSError where the hub does not take it.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ImportError(f"{name!r} is pushed by huggingface_hub: pip install huggingface_hub") from error
    hub = HfApi()
    try:
        address = hub.create_repo(name, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder)
    except (OSError, ValueError, *HfHubHTTPError.__bases__) as error:  # of what it speaks HTTP by
        message = " ".join(str(error).split())
        raise OSError(f"{folder} is written, and the hub did not take it as {name!r}: {message}") from error
    return str(address)


def _card(title, model, tokenizer, content, origin):
    parameters = count_parameters(model)
    sections = [
        _front_matter(model.config, origin),
        f"# {title}",
        f"A language model of {_parts(model.config)}, trained on {origin.learnt_from} with MixKABRN. "
        f"{parameters['total']:,} parameters, {parameters['active']:,} of them active for a token, in a file of "
        f"{len(content):,} bytes.",
        _RUN.format(tokenizer=_SUBWORDS if isinstance(tokenizer, Subwords) else f"Its tokens are {tokenizer.name}."),
        f"## Scores\n\n{_scores(origin.validation)}",
        f"## What takes how many bytes\n\n{_bytes(content)}",
        _training(content, origin),
        _LIMITS.format(license="" if origin.license else " No licence has been chosen for these weights yet."),
    ]
    return "\n\n".join(sections) + "\n"


_RUN = """## Run it

```bash
python -m mixkabrn_run complete model.safetensors --prompt="The "
```

needs `mixkabrn_run` of the MixKABRN repository, Python and NumPy; a C compiler makes it fast. `model.safetensors` holds
tokenizer and config too; `docs/format.md` of the repository has every byte of it. Each document begins with the token
`eos_token_id`, which no text has. {tokenizer} `transformers` knows no model of this kind."""

_SUBWORDS = "`tokenizers` and `transformers` open `tokenizer.json`."

_LIMITS = """## Limits

It has read nothing but its training texts, and writes what resembles them: not what is true.{license}"""


def _front_matter(config, origin):
    tags = ["mixkabrn"]
    tags += ["retnet"] * (config.mixer == "retention") + ["kan"] * (config.ffn == "kan")
    tags += ["bitnet", config.linear] * (config.linear != "dense") + ["mixture-of-experts"] * (config.num_experts > 0)
    lines = [f"language: {origin.language}"] * bool(origin.language)
    lines += [f"license: {origin.license}"] * bool(origin.license)
    lines += ["library_name: mixkabrn", "pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _parts(config):
    feed_forward = "KAN" if config.ffn == "kan" else config.ffn
    if config.num_experts:
        shared = f" and {config.num_shared_experts} shared" if config.num_shared_experts else ""
        feed_forward = f"{config.num_experts} {feed_forward} experts, {config.experts_per_token} a token{shared}"
    matrices = "dense" if config.linear == "dense" else config.linear
    return f"{config.num_layers} layers of {config.mixer} and {feed_forward}, with {matrices} matrices"


def _scores(last):
    if not last:
        return "None came with the file of this model."
    row = last["step"], f"{last['bits_per_byte']:.4f}", f"{last['loss']:.4f}", f"{last['tokens']:,}"
    return _table(("held-out texts, after step", "bits per byte", "nats per token", "tokens"), [row])


def _bytes(content):
    found = model_file.describe(content)
    rows = [(kind, *(f"{entry[key]:,}" for key in ("count", "numbers", "bytes"))) for kind, entry in found.items()]
    rows.append(("header", 1, "", f"{len(content) - sum(entry['bytes'] for entry in found.values()):,}"))
    return _table(("number format", "tensors", "numbers", "bytes"), rows)


def _training(content, origin):
    rows = [(part, fingerprint) for part, fingerprint in origin.data.items()]
    rows.append(("`model.safetensors`", f"SHA-256 {hashlib.sha256(content).hexdigest()}"))
    where = "What it was trained on, was held out, and became:"
    return f"## Training\n\n```bash\n{origin.command}\n```\n\n{where}\n\n{_table(('part', 'what'), rows)}"


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _json(value):
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
