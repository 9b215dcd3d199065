"""The flags that say which documents are read, of the entry points that read documents and train nothing on them."""

from collections.abc import Callable

from absl import flags

from configs import lm

flags.disclaim_key_flags()  # what is defined here belongs to the entry point that asks for it


def define_choice() -> dict[str, flags.FlagHolder]:
    """Defines those, by their fields, that choose what is read of a path."""
    return {
        "include": flags.DEFINE_string("include", "", "patterns of names to read, as *.txt,notes/*; empty for all"),
        "exclude": flags.DEFINE_string("exclude", "", "patterns of names not to read"),
        "text_column": flags.DEFINE_string("text_column", "", "of records; empty finds it by the usual names"),
    }


def define() -> Callable:
    """Defines all. Returns a function that makes the `DataConfig` that training would have with these flags.

    It takes further fields by name, and raises ValueError or TypeError naming a field that is wrong.
    """
    holders = {
        "source": flags.DEFINE_string(
            "source", "auto", "text, sotu, parallel, synthetic, quiz, code, gsm8k, ...: docs/data.md has all"
        ),
        "path": flags.DEFINE_string("path", "", "a file, archive or folder, or hub:owner/name; empty: built in"),
        **define_choice(),
        "directions": flags.DEFINE_string("directions", "en-de,de-en", "of parallel text, with commas between"),
        "licenses": flags.DEFINE_string("licenses", lm.get_config().data.licenses, "of code; empty reads all"),
        "template": flags.DEFINE_string("template", "", "chat: of instruction data, as config.data.template"),
        "on_damage": flags.DEFINE_string("on_damage", "skip", "skip counts what cannot be read; error ends there"),
    }

    def config(**changes):
        # Only here, so that a wrong flag is answered at once.
        from mixkabrn_jax.data.config import DataConfig

        given = {field: holder.value for field, holder in holders.items()}
        return DataConfig(**{**lm.get_config().data.to_dict(), **given, **changes})

    return config
