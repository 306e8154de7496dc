from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.relay import windows
from trio_ai_proxy.relay.windows import Cutter

# Whatever ends a sentence, or looks as if, is frequent.
TEXTS = st.text(st.sampled_from('ab.!?…。！"」) \n\t1') | st.characters(codec="utf-8"), max_size=60)


def windows_of(pieces: list[str], size: int, *, by_sentence: bool) -> list[str]:
    """The windows of a text that comes in `pieces`, the rest of it included."""
    cutter = Cutter(size, by_sentence=by_sentence)
    found = [""]
    for piece in pieces:
        *ended, rest = cutter.feed(piece)
        for text in ended:
            found[-1] += text
            found.append("")
        found[-1] += rest
        assert cutter.open == len(found[-1])
    return [text for text in found if text]


def sentences(text: str, size: int = 100) -> list[str]:
    return windows_of([text], size, by_sentence=True)


@given(TEXTS, st.lists(st.integers(0, 60), max_size=10), st.integers(1, 20), st.booleans())
def test_windows_do_not_depend_on_the_pieces_in_which_a_text_comes(
    text: str, cuts: list[int], size: int, by_sentence: bool
) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    whole = windows_of([text], size, by_sentence=by_sentence)
    assert windows_of(pieces, size, by_sentence=by_sentence) == whole
    assert windows_of(list(text), size, by_sentence=by_sentence) == whole
    assert "".join(whole) == text
    assert all(len(window) <= size for window in whole)


@given(TEXTS, st.integers(1, 20))
def test_without_sentences_every_window_but_the_last_is_full(text: str, size: int) -> None:
    found = windows_of([text], size, by_sentence=False)
    assert all(len(window) == size for window in found[:-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ("3.14 is at example.com/a.b", ["3.14 is at example.com/a.b"]),
        ("Really?! Yes... \"So.\" (Ah.) *Oh.* End", ["Really?! ", "Yes... ", '"So." ', "(Ah.) ", "*Oh.* ", "End"]),
        ("A line\nanother\n\n\nand more", ["A line\n", "another\n", "\n\nand more"]),
        ("海は青い。「そう。」と言った！本当？はい", ["海は青い。", "「そう。」", "と言った！", "本当？", "はい"]),
        ("…and so on… Then", ["…and so on… ", "Then"]),
        ("مرحبا؟ نعم", ["مرحبا؟ ", "نعم"]),
        ("नमस्ते। फिर", ["नमस्ते। ", "फिर"]),
        ("   \n \n  Begins late. ", ["   \n \n  Begins late. "]),
        ("", []),
    ],
)  # fmt: skip
def test_sentence_ends_where_people_see_it_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_sentence_that_does_not_end_is_cut_where_the_window_is_full() -> None:
    assert sentences("abcdefgh. ij", 4) == ["abcd", "efgh", ". ", "ij"]


def test_window_ends_with_the_character_that_fills_it_and_does_not_wait_for_another() -> None:
    assert Cutter(3, by_sentence=False).feed("abc") == ["abc", ""]
    assert Cutter(30, by_sentence=True).feed("Yes. ") == ["Yes. ", ""]
    assert Cutter(30, by_sentence=True).feed("Yes.") == ["Yes."]


def test_closing_begins_a_new_window_there() -> None:
    cutter = Cutter(4, by_sentence=True)
    assert cutter.feed("ab.") == ["ab."]
    cutter.close()
    # The blank alone is no sentence, although one has ended before it.
    assert cutter.feed(" cdef") == [" cde", "f"]


def test_no_window_is_larger_than_memory_is_given_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_WINDOW_CHARACTERS", 5)
    assert windows_of(["abcdefgh"], 2**62, by_sentence=False) == ["abcde", "fgh"]
