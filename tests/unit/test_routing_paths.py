from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.routing.paths import PathPattern, WrongPattern


def match(pattern: str, path: bytes) -> dict[str, str] | None:
    return PathPattern.parse(pattern).match(path)


@pytest.mark.parametrize(
    ("pattern", "path", "captures"),
    [
        ("/chat/{team}/{model}", b"/chat/blue/gpt-4o", {"team": "blue", "model": "gpt-4o"}),
        ("/chat/{team}", b"/chat/a%20b", {"team": "a b"}),
        ("/chat/{team}", b"/chat/%C3%A9", {"team": "é"}),
        ("/chat/{team}", b"/chat/a%2Fb", {"team": "a/b"}),
        ("/chat/{team}", b"/chat/%252e", {"team": "%2e"}),
        ("/chat/{team}", b"/chat/a+b", {"team": "a+b"}),
        ("/chat/{team}", b"/chat/%2e%2e", {"team": ".."}),
        ("/{a}/x/{b}", b"/1/x/2", {"a": "1", "b": "2"}),
        ("/a/", b"/a/", {}),
        ("/chat/{team}", b"/chat/", None),
        ("/chat/{team}", b"/chat", None),
        ("/chat/{team}", b"/chat/a/", None),
        ("/chat/{team}", b"/chat/a/b", None),
        ("/chat/{team}", b"/Chat/a", None),
        ("/chat/{team}", b"/ch%61t/a", None),
        ("/chat/{team}/x", b"/chat//x", None),
        ("/chat/{team}", b"//chat/a", None),
    ],
)
def test_takes_one_segment_for_each_name(pattern: str, path: bytes, captures: dict[str, str] | None) -> None:
    assert match(pattern, path) == captures


@pytest.mark.parametrize("segment", [b"%", b"a%2", b"%zz", b"%ff", b"%C3", b"\xff"])
def test_segment_that_is_no_utf8_is_named(segment: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        match("/chat/{team}", b"/chat/" + segment)
    assert caught.value.param == "uri_captures.team"


@pytest.mark.parametrize("path", ["/a{b}", "/{a}b", "/{}", "/{a-b}", "/{1}", "/{", "/}", "/{{a}}", "/{a}/{a}"])
def test_what_is_no_pattern_is_refused(path: str) -> None:
    with pytest.raises(WrongPattern):
        PathPattern.parse(path)


@given(st.binary(max_size=30))
def test_no_path_gives_an_empty_value_or_another_error(path: bytes) -> None:
    try:
        captures = match("/{a}/{b}", b"/" + path)
    except InvalidRequest:
        return
    assert captures is None or all(captures.values())
