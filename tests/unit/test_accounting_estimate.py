"""Without an encoding, an estimate is of the right size for every kind of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ranks import encoding

from trio_ai_proxy.accounting.estimate import estimate_tokens

TEXTS = {
    "prose": "The gateway closes the connection to the provider as soon as the client has left, and writes it down. ",
    "code": "def feed(self, chunk: bytes) -> list[Frame]:\n    self._pending += chunk\n    return self._cut(b'\\n')\n",
    "json": '{"id": "call_1", "type": "function", "arguments": {"city": "Paris", "days": [1, 2, 3], "units": null}}\n',
    "german": "Wenn der Empfänger gegangen ist, wird die Verbindung zum Anbieter sofort geschlossen. ",
    "russian": "Когда клиент уходит, соединение с поставщиком закрывается сразу, и всё записывается в журнал. ",
    "chinese": "客户离开以后，网关会立即关闭与服务商的连接，并把所有用量记入账本。",
    "japanese": "クライアントが切断すると、ゲートウェイはすぐに接続を閉じて、使用量を記録します。",
    "korean": "클라이언트가 떠나면 게이트웨이는 즉시 연결을 닫고 사용량을 기록합니다. ",
    "hindi": "जब ग्राहक चला जाता है, तो कनेक्शन तुरंत बंद कर दिया जाता है और सब कुछ दर्ज किया जाता है। ",
    "digits": "3141592653 5897932384 6264338327 9502884197 ",
    "emoji": "🚀🎉🔥👍😀🌍",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_an_estimate_is_within_two_fifths_of_the_count(kind: str) -> None:
    text = TEXTS[kind] * 5
    counted = len(encoding().encode_ordinary(text))
    assert abs(estimate_tokens(text) - counted) <= 0.4 * counted


def test_an_empty_text_has_no_tokens_and_no_other_text_has_none() -> None:
    assert estimate_tokens("") == 0.0
    assert estimate_tokens("   ") == 1.0


@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_text_has_an_estimate_of_at_most_two_tokens_a_character(text: str) -> None:
    assert (0 < estimate_tokens(text) <= 2 * len(text)) or not text


def test_half_a_surrogate_pair_is_estimated_like_any_other_sign() -> None:
    assert estimate_tokens("\ud800") > 0
