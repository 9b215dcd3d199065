"""Stop strings in streamed text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_run.stops import unescape, until

LETTERS = "a\u00e9"  # few: stops that begin, overlap and hold each other


def slow(text, stops):
    """Character by character, all that is there looked through each time: the longest stop at the first end of one."""
    for end in range(len(text) + 1):
        if here := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - len(max(here, key=len))]
    return text


TEXTS, STOPS = st.text(LETTERS, max_size=20), st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3)


@settings(max_examples=300)
@given(text=TEXTS, size=st.integers(1, 5), stops=STOPS)
def test_a_stop_is_found_however_the_text_is_cut(text, size, stops):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert "".join(until(pieces, stops)) == slow(text, stops)


@settings(max_examples=300)
@given(text=TEXTS, stops=STOPS)
def test_only_what_may_become_a_stop_is_held_back(text, stops):
    shown = ""

    def pieces():
        for i, letter in enumerate(text):
            yield letter
            held = text[len(shown) : i + 1]  # by the time that the next letter is asked for
            assert not held or any(stop.startswith(held) for stop in stops)

    for piece in until(pieces(), stops):
        shown += piece


def test_no_more_is_asked_for_behind_a_stop():
    pieces = iter(["a", "b", "c"])
    assert list(until(pieces, ["b"])) == ["a"]
    assert list(pieces) == ["c"]


@pytest.mark.parametrize("stops", [[""], ["a", ""], "ab"])
def test_a_stop_that_cannot_be_is_refused_at_the_call(stops):
    with pytest.raises(ValueError, match=r"stop=.*: a list of texts is needed, none of them empty"):
        until([], stops)


def test_a_command_line_can_say_new_line_tab_and_backslash():
    assert unescape(r"a\n\n\t\\n \q\\") == "a\n\n\t\\n \\q\\"


@pytest.mark.parametrize(("stops", "came"), [(["bc", "x"], "bc"), (["x"], ""), ([], "")])
def test_whoever_goes_through_all_of_it_is_told_which_stop_came(stops, came):
    found = []

    def all_of():
        found.append((yield from until(["a", "b", "c"], stops)))

    assert "".join(all_of()) == ("a" if came else "abc")
    assert found == [came]
