"""A config's document, which is nested dicts, as the frozen dataclasses of the modules that use it."""

import dataclasses
import typing
from collections.abc import Mapping


def build(cls: type, values: Mapping, path: str = "config", *, is_complete: bool = True):
    """The dataclass of a section, with those of its own sections in it.

    The dataclass of a layer knows no config and names its own field; here its errors get the path from the top, as the
    command line has it: "config.model.kan.grid.degree=9: 0 to 5 is needed".

    Args:
        cls: a dataclass; fields whose types are dataclasses are sections.
        values: by the names of its fields.
        path: of the section.
        is_complete: every field must be there. Else one that is missing has its default: a run's config may be older
            than the field, and a field that came later has as its default what was done before.
    Raises: TypeError for a field that is unknown, missing or of another type, ValueError for an impossible value.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{path}={values!r} is a section: a dict of its fields is needed")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in sorted(values.keys() - fields.keys()):
        raise TypeError(f"{path}.{name}: there is no such field; there are {', '.join(sorted(fields))}")
    for name in sorted(fields.keys() - values.keys()):
        if is_complete or fields[name].default is dataclasses.MISSING:
            raise TypeError(f"{path}.{name} is missing: every field must be declared")
    types = typing.get_type_hints(cls)
    built = {
        name: build(types[name], value, f"{path}.{name}", is_complete=is_complete)
        if dataclasses.is_dataclass(types[name])
        else _of_type(types[name], value, f"{path}.{name}")
        for name, value in values.items()
    }
    try:
        return cls(**built)
    except ValueError as error:
        if str(error).startswith("config."):  # of a section that stands in one place only, and says where
            raise
        raise ValueError(f"{path}.{error}") from error


_TYPES = {
    bool: (bool, "True or False"),
    int: (int, "an integer"),
    float: ((int, float), "a number"),
    str: (str, "a text"),
}


def _of_type(cls, value, path):
    """The value; what a field's own checks compare it with is of its type."""
    types, wanted = _TYPES.get(cls, (object, ""))
    if not isinstance(value, types):
        raise TypeError(f"{path}={value!r}: {wanted} is needed")
    return value


def defaults(cls: type) -> dict:
    """The defaults of a dataclass's fields and of those of its sections, where they have any, by dotted names."""
    types = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(types[field.name]):
            found |= {f"{field.name}.{name}": value for name, value in defaults(types[field.name]).items()}
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
    return found


def flatten(config: Mapping, prefix: str = "") -> dict:
    """Nested sections as one dict with dotted keys."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
