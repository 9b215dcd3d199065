"""A document of nested sections as dataclasses: what is wrong is named from the top."""

from dataclasses import dataclass

import pytest

from mixkabrn_jax.runs.config import build, defaults, flatten


@dataclass(frozen=True)
class Grid:
    low: float
    degree: int = 3

    def __post_init__(self):
        if self.degree < 0:
            raise ValueError(f"degree={self.degree}: 0 or more is needed")


@dataclass(frozen=True)
class Spline:
    grid: Grid
    share: float

    def __post_init__(self):
        if self.share < 0:
            raise ValueError(f"share={self.share}: 0 or more is needed")
        if self.share > self.grid.degree:
            raise ValueError(f"grid.degree={self.grid.degree} is less than share={self.share}")
        if self.share == self.grid.degree:
            raise ValueError(f"config.elsewhere.share={self.share} says where it stands")


@dataclass(frozen=True)
class Model:
    spline: Spline
    width: int
    name: str = ""


def document(share=0.5, **grid):
    return {"spline": {"grid": {"low": -1.0, "degree": 2} | grid, "share": share}, "width": 4, "name": "a"}


def test_sections_become_the_dataclasses_of_their_fields():
    assert build(Model, document()) == Model(Spline(Grid(-1.0, 2), 0.5), 4, "a")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (document() | {"widht": 4}, "config.widht: there is no such field; there are name, spline, width"),
        (document(high=1.0), "config.spline.grid.high: there is no such field; there are degree, low"),
        ({"spline": document()["spline"], "name": "a"}, "config.width is missing: every field must be declared"),
        (document() | {"spline": {"share": 0.5}}, "config.spline.grid is missing: every field must be declared"),
        (document() | {"spline": {"share": 0.5, "grid": {"low": -1.0}}}, "config.spline.grid.degree is missing"),
    ],
)
def test_a_field_that_is_unknown_or_missing_is_a_type_error(values, message):
    with pytest.raises(TypeError) as error:
        build(Model, values)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (document() | {"spline": 3}, "config.spline=3 is a section: a dict of its fields is needed"),
        (document() | {"width": "wide"}, "config.width='wide': an integer is needed"),
        (document() | {"width": 2.5}, "config.width=2.5: an integer is needed"),
        (document() | {"name": 3}, "config.name=3: a text is needed"),
        (document(low="a"), "config.spline.grid.low='a': a number is needed"),
        (document(share=None), "config.spline.share=None: a number is needed"),
    ],
)
def test_a_value_of_another_type_than_its_field_s_is_a_type_error(values, message):
    with pytest.raises(TypeError) as error:
        build(Model, values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (document(degree=-1), "config.spline.grid.degree=-1: 0 or more is needed"),
        (document(share=-1), "config.spline.share=-1: 0 or more is needed"),
        (document(share=3), "config.spline.grid.degree=2 is less than share=3"),
        (document(share=2), "config.elsewhere.share=2 says where it stands"),
    ],
)
def test_an_impossible_value_is_named_once_from_the_top(values, message):
    with pytest.raises(ValueError) as error:
        build(Model, values)
    assert str(error.value) == message


def test_a_path_below_the_top_is_part_of_the_name():
    with pytest.raises(ValueError, match=r"^config\.model\.grid\.degree=-1"):
        build(Spline, document(degree=-1)["spline"], "config.model")


def test_a_config_that_is_older_than_a_field_has_the_fields_default():
    values = {"spline": {"share": 0.5, "grid": {"low": -1.0}}, "width": 4}
    assert build(Model, values, is_complete=False) == Model(Spline(Grid(-1.0, 3), 0.5), 4, "")
    assert defaults(Model) == {"spline.grid.degree": 3, "name": ""}
    with pytest.raises(TypeError, match=r"^config\.width is missing"):  # it has none
        build(Model, {"spline": document()["spline"]}, is_complete=False)


def test_a_flat_config_has_the_dotted_names_of_the_command_line():
    flat = {"spline.grid.low": -1.0, "spline.grid.degree": 2, "spline.share": 0.5, "width": 4, "name": "a"}
    assert flatten(document()) == flat
