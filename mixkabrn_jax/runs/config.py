"""A config's document, which is nested dicts, as the frozen dataclasses of the modules that use it."""

import dataclasses
import typing
from collections.abc import Mapping


def build(cls: type, values: Mapping, path: str = "config"):
    """The dataclass of a section, with those of its own sections in it.

    The dataclass of a layer knows no config and names its own field; here its errors get the path from the top, as the
    command line has it: "config.model.kan.grid.degree=9: 0 to 5 is needed".

    Args:
        cls: a dataclass; fields whose types are dataclasses are sections.
        values: by the names of its fields.
        path: of the section.
    Raises: TypeError for a field that is unknown or missing, ValueError for an impossible value.
    """
    fields = {field.name for field in dataclasses.fields(cls)}
    for name in sorted(values.keys() - fields):
        raise TypeError(f"{path}.{name}: there is no such field; there are {', '.join(sorted(fields))}")
    for name in sorted(fields - values.keys()):
        raise TypeError(f"{path}.{name} is missing: every field must be declared")
    types = typing.get_type_hints(cls)
    built = {
        name: build(types[name], value, f"{path}.{name}") if dataclasses.is_dataclass(types[name]) else value
        for name, value in values.items()
    }
    try:
        return cls(**built)
    except ValueError as error:
        if str(error).startswith("config."):  # of a section that stands in one place only, and says where
            raise
        raise ValueError(f"{path}.{error}") from error
