from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recordings import comparable, recordings, ways_to_cut

from trio_ai_proxy.chat.events import Embedded, Ended, Started, UsageReported
from trio_ai_proxy.chat.fields import FIELDS
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import ConfigError, InvalidRequest, UpstreamError, UpstreamProtocolError
from trio_ai_proxy.providers.azure import FATES, AzureProvider
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.relay.passthrough import PassThrough
from trio_ai_proxy.settings import AuthSettings, ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.providers.base import UpstreamRequest

KEY = Secret("0123456789abcdef0123456789abcdef", "a test")
CHAT = {"model": "asked", "messages": [{"role": "user", "content": "hi"}]}


def provider(**keys: Any) -> AzureProvider:
    if not {"base_url", "instance"} & keys.keys():
        keys["instance"] = "res"
    made = build_provider(ProviderSettings(name="p", kind="azure", **{"api_key": KEY, **keys}))
    assert isinstance(made, AzureProvider)
    return made


def asked(operation: Operation = "chat", fields: dict[str, Any] | None = None) -> ChatRequest:
    return ChatRequest(operation, "asked", False, False, CHAT if fields is None else fields)


def prepare(
    fields: dict[str, Any] | None = None,
    *,
    operation: Operation = "chat",
    stream: bool = False,
    model: str = "dep",
    **keys: Any,
) -> UpstreamRequest:
    return provider(**keys).prepare(asked(operation, fields), model=model, stream=stream)


class TestAddress:
    @pytest.mark.parametrize(
        ("keys", "url"),
        [
            ({}, "https://res.openai.azure.com/openai/v1/chat/completions"),
            ({"api_version": "preview"}, "https://res.openai.azure.com/openai/v1/chat/completions?api-version=preview"),
            ({"base_url": "http://h:1/p/"}, "http://h:1/p/openai/v1/chat/completions"),
            ({"base_url": "http://h:1/openai/v1/"}, "http://h:1/openai/v1/chat/completions"),
            (
                {"api_version": "2024-10-21"},
                "https://res.openai.azure.com/openai/deployments/dep/chat/completions?api-version=2024-10-21",
            ),
            (
                {"api_version": "2025-04-01-preview", "deployment": "other"},
                "https://res.openai.azure.com/openai/deployments/other/chat/completions?api-version=2025-04-01-preview",
            ),
        ],
    )
    def test_of_each_interface(self, keys: dict[str, Any], url: str) -> None:
        assert prepare(**keys).url == url

    @pytest.mark.parametrize(
        ("operation", "path"),
        [("chat", "chat/completions"), ("completions", "completions"), ("embeddings", "embeddings")],
    )
    def test_of_each_operation(self, operation: Operation, path: str) -> None:
        assert prepare({}, operation=operation).url == f"https://res.openai.azure.com/openai/v1/{path}"
        dated = prepare({}, operation=operation, api_version="2024-10-21").url
        assert dated == f"https://res.openai.azure.com/openai/deployments/dep/{path}?api-version=2024-10-21"

    @pytest.mark.parametrize(
        ("model", "segment"),
        [("a/../b", "a%2F..%2Fb"), ("a?b#c", "a%3Fb%23c"), ("{}", "%7B%7D"), ("%2e", "%252e"), ("é", "%C3%A9")],
    )
    def test_of_a_deployment_is_one_segment(self, model: str, segment: str) -> None:
        url = prepare(model=model, api_version="2024-10-21").url
        assert (
            url == f"https://res.openai.azure.com/openai/deployments/{segment}/chat/completions?api-version=2024-10-21"
        )

    @pytest.mark.parametrize("model", [".", "..", ""])
    def test_of_a_deployment_walks_nowhere(self, model: str) -> None:
        with pytest.raises(InvalidRequest, match="not a deployment"):
            prepare(model=model, api_version="2024-10-21")

    def test_is_needed(self) -> None:
        with pytest.raises(ConfigError, match="needs a base_url"):
            provider(instance=None)


class TestCredential:
    def test_key_has_a_header_of_its_own(self) -> None:
        headers = dict(prepare().headers)
        assert headers[b"api-key"] == KEY.reveal().encode()
        assert b"authorization" not in headers

    def test_auth_takes_its_place(self) -> None:
        auth = AuthSettings(header_name="Authorization", header_value=Secret("Bearer tok-123456", "a test"))
        headers = dict(prepare(auth=auth, api_key=None).headers)
        assert headers[b"authorization"] == b"Bearer tok-123456"
        assert b"api-key" not in headers

    def test_key_does_not_come_back_in_an_error(self) -> None:
        body = json.dumps({"error": {"code": "401", "message": f"Access denied for {KEY.reveal()}"}}).encode()
        error = provider().read_error(401, {}, body)
        assert (error.status, error.upstream_status, error.code) == (502, 401, "401")
        assert error.message == "Access denied for ***"


class TestBody:
    def test_is_the_clients_with_the_deployment_as_model(self) -> None:
        fields = {
            **CHAT,
            "data_sources": [{"type": "azure_search"}],
            "n": 1,
            "messages": [{"role": "user", "content": "é\u2028"}],
        }
        assert json.loads(prepare(fields).body) == {**fields, "model": "dep"}
        assert json.loads(prepare(fields, deployment="d2").body)["model"] == "d2"

    @pytest.mark.parametrize(
        ("version", "has"),
        [(None, True), ("preview", True), ("2024-10-21", True), ("2024-09-01-preview", True),
         ("2024-08-01-preview", False), ("2024-06-01", False), ("2023-05-15", False)],
    )  # fmt: skip
    def test_asks_for_usage_where_the_version_knows_how(self, version: str | None, has: bool) -> None:
        body = json.loads(prepare(stream=True, api_version=version).body)
        assert body["stream"] is True
        assert body.get("stream_options") == ({"include_usage": True} if has else None)

    def test_says_nothing_of_streams_for_embeddings(self) -> None:
        fields = {"model": "asked", "input": [[1, 2]], "encoding_format": "base64"}
        assert json.loads(prepare(fields, operation="embeddings").body) == {**fields, "model": "dep"}

    def test_every_field_has_its_fate(self) -> None:
        assert set(FATES) == {name for fields in FIELDS.values() for name in fields}


def play(pieces: list[bytes], operation: Operation) -> tuple[list[Event], str | None]:
    azure = provider()
    framer, decoder = azure.framer("text/event-stream"), azure.decoder(asked(operation))
    events: list[Event] = []
    try:
        for piece in pieces:
            for frame in framer.feed(piece):
                events += decoder.feed(frame)
        for frame in framer.close():
            events += decoder.feed(frame)
        events += decoder.close()
    except UpstreamError as error:
        return events, type(error).__name__
    return events, None


@pytest.mark.parametrize("recording", recordings("azure"), ids=lambda recording: recording.name)
def test_recording_means_what_stands_beside_it_however_it_is_cut(recording) -> None:
    for pieces in ways_to_cut(recording.response):
        events, raised = play(pieces, recording.operation)
        assert (comparable(events), raised) == (recording.events, recording.raises)


@pytest.mark.parametrize("recording", recordings("azure"), ids=lambda recording: recording.name)
def test_the_bytes_pass_but_for_the_models_name(recording) -> None:
    """What the filter says reaches the client, in chunks as they came."""
    for pieces in ways_to_cut(recording.response):
        azure = provider()
        path = PassThrough(
            azure.framer("text/event-stream"),
            azure.decoder(asked(recording.operation)),
            client_model=None,
            hide_usage=False,
        )
        out = b""
        ended = False
        for piece in [*pieces, b""]:
            batch = path.feed(piece) if piece else path.close()
            out += batch.out
            ended = ended or batch.ended
        whole = recording.response.partition(b"data: [DONE]")[0].partition(b'data: {"error"')[0]
        out = without_empty_deltas(out)
        if recording.raises is None:
            assert out == whole
        else:
            assert recording.response.startswith(out)
        assert ended == (Ended() in recording.events)


def without_empty_deltas(out: bytes) -> bytes:
    """`out` without what is added to the frames of the asynchronous filter."""
    frames = out.split(b"\n\n")
    return b"\n\n".join(
        frame.replace(b',"delta":{}', b"") if b"content_filter_offsets" in frame else frame for frame in frames
    )


def test_notes_of_the_asynchronous_filter_have_the_delta_that_clients_count_on() -> None:
    [recording] = [one for one in recordings("azure") if one.name == "asynchronous_filter_first"]
    raws = [frame.raw for frame in provider().framer().feed(recording.response)]
    chunks = [json.loads(raw.removeprefix(b"data: ")) for raw in raws if b"[DONE]" not in raw]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["delta"] for choice in choices if "content_filter_offsets" in choice] == [{}, {}]
    assert all("delta" in choice for choice in choices)


@pytest.mark.parametrize(
    "data",
    [b'{"content_filter_offsets":1', b'["content_filter_offsets"]', b'{"content_filter_offsets":{},"choices":3}',
     b'{"content_filter_offsets":{},"choices":[3]}', b'{"content_filter_offsets":{},"choices":null}',
     b'{"choices":[{"delta":{"content":"\\"content_filter_offsets\\""}}]}',
     b'{"choices":[{"delta":{},"content_filter_offsets":{}}]}'],
)  # fmt: skip
def test_any_other_frame_stays_as_it_came(data: bytes) -> None:
    raw = b"data: " + data + b"\n\n"
    [frame] = provider().framer().feed(raw)
    assert (frame.raw, frame.data) == (raw, data)


class TestOneShot:
    USAGE: ClassVar[dict[str, Any]] = {
        "prompt_tokens": 12,
        "completion_tokens": 9,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    SAFE: ClassVar[dict[str, Any]] = {"hate": {"filtered": False, "severity": "safe"}}

    def answer(self, message: dict[str, Any], finish: str, usage: dict[str, Any] | None) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish,
                  "content_filter_results": self.SAFE, "logprobs": None}  # fmt: skip
        whole = {
            "id": "chatcmpl-CxAz0", "created": 1762300000, "model": "gpt-4o-2024-11-20", "object": "chat.completion",
            "system_fingerprint": "fp_az", "choices": [choice],
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": self.SAFE}],
        }  # fmt: skip
        return json.dumps(whole | ({"usage": usage} if usage else {})).encode()

    @pytest.mark.parametrize(
        ("name", "message", "finish", "usage"),
        [
            ("text", {"content": "Größe\u2028海は広い 🌊", "refusal": None}, "stop", USAGE),
            (
                "tools",
                {
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_a",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"where":{"city":"Zürich"},"days":[1,2]}'},
                        },
                        {"id": "call_b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
                    ],
                },
                "tool_calls",
                {"prompt_tokens": 60, "completion_tokens": 30, "total_tokens": 90},
            ),
            ("no_usage", {"content": "Hi"}, "stop", None),
            ("asynchronous_filter_stops", {"content": "They"}, "content_filter", None),
        ],
    )
    def test_says_what_the_stream_says(
        self, name: str, message: dict[str, Any], finish: str, usage: dict[str, Any] | None
    ) -> None:
        [recording] = [one for one in recordings("azure") if one.name == name]
        streamed, whole = Fold(), Fold()
        for event in play([recording.response], "chat")[0]:
            streamed.add(event)
        for event in provider().read_answer(asked(), self.answer(message, finish, usage)):
            whole.add(event)
        assert whole.answer() == streamed.answer()


class TestErrors:
    FILTERED: ClassVar[dict[str, Any]] = {
        "error": {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
            "type": None, "param": "prompt", "code": "content_filter", "status": 400,
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}},
            },
        }
    }  # fmt: skip

    def test_of_the_content_filter_tells_the_client_what_was_found(self) -> None:
        error = provider().read_error(400, {}, json.dumps(self.FILTERED).encode())
        assert (error.status, error.code, error.param) == (400, "content_filter", "prompt")
        told = json.loads(DIALECTS["llm/v1/chat"].encode_error(error))["error"]
        assert told["innererror"] == self.FILTERED["error"]["innererror"]
        assert told["code"] == "content_filter"
        in_band = DIALECTS["llm/v1/chat"].encode_stream_error(error)
        assert json.loads(in_band.removeprefix(b"data: "))["error"] == told

    def test_detail_has_no_credential_and_is_not_long(self) -> None:
        body: dict[str, Any] = {"error": {"message": "m", "innererror": {"code": f"x {KEY.reveal()}"}}}
        assert provider().read_error(400, {}, json.dumps(body).encode()).details == {"innererror": {"code": "x ***"}}
        body["error"]["innererror"] = {"trace": "t" * 5000}
        assert provider().read_error(400, {}, json.dumps(body).encode()).details is None

    @pytest.mark.parametrize(
        ("status", "headers", "body", "facts"),
        [
            (
                401,
                {},
                {"error": {"code": "PermissionDenied", "message": "The principal lacks the required data action"}},
                (502, "PermissionDenied", None),
            ),
            (401, {}, {"statusCode": 401, "message": "Unauthorized."}, (502, "upstream_status", None)),
            (404, {}, {"error": {"code": "DeploymentNotFound", "message": "m"}}, (404, "DeploymentNotFound", None)),
            (429, {"Retry-After": "7"}, {"error": {"code": "429", "message": "m"}}, (429, "429", 7.0)),
            (
                429,
                {"retry-after-ms": "1500", "retry-after": "2"},
                {"error": {"code": "RateLimitReached", "message": "m"}},
                (429, "RateLimitReached", 1.5),
            ),
        ],
    )
    def test_keeps_azures_words(
        self, status: int, headers: dict[str, str], body: dict[str, Any], facts: tuple[Any, ...]
    ) -> None:
        error = provider().read_error(status, headers, json.dumps(body).encode())
        assert (error.status, error.code, error.retry_after) == facts


class TestEmbeddings:
    def test_are_read_in_the_order_of_the_inputs(self) -> None:
        body = {
            "object": "list", "model": "text-embedding-3-small",
            "data": [
                {"object": "embedding", "index": 1, "embedding": [0.5, -1]},
                {"object": "embedding", "index": 0, "embedding": "AAAAPw=="},
            ],
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }  # fmt: skip
        assert provider().read_answer(asked("embeddings"), json.dumps(body).encode()) == [
            Started("", "text-embedding-3-small"),
            Embedded("AAAAPw==", 0),
            Embedded([0.5, -1.0], 1),
            UsageReported(TokenUsage(4, 0, 4)),
            Ended(),
        ]

    @pytest.mark.parametrize(
        "body", [b"{}", b'{"data":[]}', b'{"data":[{"embedding":null}]}', b'{"data":3}', b"[]", b"{"]
    )
    def test_what_has_none_is_refused(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            provider().read_answer(asked("embeddings"), body)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("id", "model", "created", "choices", "usage", "error", "data", "object"), anything),
    )
)
def test_nothing_that_azure_could_send_raises_anything_else(document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    azure = provider()
    for operation in ("chat", "completions", "embeddings"):
        try:
            azure.read_answer(asked(operation), body)  # type: ignore[arg-type]  # these are the operations
        except UpstreamError:
            pass
    try:
        decoder = azure.decoder(asked())
        for frame in azure.framer("text/event-stream").feed(b"data: " + body + b"\n\n"):
            decoder.feed(frame)
        decoder.close()
    except UpstreamError:
        pass
    azure.read_error(400, {}, body)


def test_its_wire_is_openais() -> None:
    assert provider().wire == DIALECTS["llm/v1/chat"].wire == KINDS["azure"].wire
    assert isinstance(provider().decoder(asked()), OpenAIDecoder)
    assert provider().for_model("x").wire == "openai"
