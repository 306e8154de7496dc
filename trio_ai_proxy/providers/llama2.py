"""A server that takes a bare prompt and gives the text that follows it (Kong's `llama2_format = "raw"`). It answers at once
and never as a stream; its `base_url` is the whole address.

What goes out is `{"inputs": …, "parameters": {…}}`. What comes back is an object with `generated_text`, a list of one, or
either under `data`. Where a server speaks OpenAI's or Ollama's wire (`format`), another class does this one's work.

Source: https://developer.konghq.com/plugins/ai-proxy/ and https://huggingface.co/docs/text-generation-inference
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.events import Ended, Event, Failed, Finished, Started, TextDelta, UsageReported
from trio_ai_proxy.chat.reading import read_prompt
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import InvalidRequest, UpstreamProtocolError, UpstreamStatus
from trio_ai_proxy.providers.account import Account
from trio_ai_proxy.providers.base import EVENT_STREAM, UpstreamRequest, encode_body
from trio_ai_proxy.providers.error_words import status_error, stream_error
from trio_ai_proxy.providers.llama2_request import llama2_prompt, raw_body
from trio_ai_proxy.providers.loose import a_dict, a_text, count, read_leniently

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Authority, Provider
    from trio_ai_proxy.providers.kind import Kind
    from trio_ai_proxy.settings import ProviderSettings

_REASONS = {"eos_token": "stop", "stop_sequence": "stop"}  # of Text Generation Inference; "length" is OpenAI's as well


class Llama2Provider:
    """One such server. Raises `ConfigError` if it cannot be used as it is configured."""

    wire = "llama2"
    stream_types: tuple[str, ...] = ()
    authority: Authority | None = None

    def __init__(self, settings: ProviderSettings, kind: Kind) -> None:
        account = Account(settings, kind)
        self.name = account.name
        self.kind = account.kind
        self.capabilities = kind.capabilities
        self._url = account.url("")
        self._body_credential = account.body_credential
        self._headers = account.headers("application/json")
        self._scrub = account.scrub

    def prepare(self, request: ChatRequest, *, model: str, stream: bool) -> UpstreamRequest:
        """See `Provider.prepare`. The model is not said: such a server has one."""
        if request.operation not in self.capabilities.operations:
            raise InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
        body, dropped = raw_body(request, self.kind)
        body |= self._body_credential
        return UpstreamRequest("POST", self._url, self._headers, encode_body(body), stream=False, dropped=dropped)

    def framer(self, media_type: str = EVENT_STREAM) -> Framer:
        raise RuntimeError("such a server has no streams, as its capabilities say, and is asked for none")

    def for_model(self, model: str) -> Provider:
        return self

    def decoder(self, request: ChatRequest) -> Stage[Frame, Event]:
        raise RuntimeError("such a server has no streams, as its capabilities say, and is asked for none")

    def read_answer(self, request: ChatRequest, body: bytes) -> list[Event]:
        """What an answer means. Raises `UpstreamProtocolError` if it is none."""
        document = _document(body)
        whole = a_dict(document)
        if whole.get("error"):
            return [Failed(stream_error(whole, self._scrub))]
        found = whole.get("data", document)
        if isinstance(found, list) and len(found) == 1:
            [found] = found
        said = a_dict(found)
        text = said.get("generated_text")
        if not isinstance(text, str):
            raise UpstreamProtocolError('The provider\'s answer has no "generated_text".')
        if request.operation == "chat":
            text = self._without_prompt(request, text).strip()
        events: list[Event] = [Started("", "")]
        if text:
            events.append(TextDelta(text))
        usage = _usage(a_dict(whole.get("usage")))
        events.append(Finished(_reason(a_dict(said.get("details")), usage, read_prompt(request).max_tokens)))
        if usage is not None:
            events.append(UsageReported(usage))
        return [*events, Ended()]

    def _without_prompt(self, request: ChatRequest, text: str) -> str:
        """An answer to a chat without the conversation before it, which some servers say again. It begins with the mark of
        the first instruction, as no answer does; and no message can hold such a mark, so the last is where the answer
        begins."""
        if not text.lstrip().removeprefix("<s>").lstrip().startswith("[INST]"):
            return text
        instructions = llama2_prompt(read_prompt(request).turns, self.kind).count("[/INST]")
        return text.split("[/INST]", instructions)[-1]

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamStatus:
        return status_error(status, headers, body, self._scrub)


def _document(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            return read_leniently(body)
        except (ValueError, RecursionError):
            raise UpstreamProtocolError("The provider sent what is not JSON.") from error


def _reason(details: dict[str, Any], usage: TokenUsage | None, limit: int | None) -> str:
    """Why the text ends: the server's reason where it gives one (as Text Generation Inference does when `details` are asked
    for); else "length" where as many tokens were made as were allowed; else "stop". A server that gives neither reason nor
    count can have stopped at a limit of its own: OpenAI's wire has no word for not knowing."""
    reason = a_text(details.get("finish_reason"))
    if reason:
        return _REASONS.get(reason, reason)
    made = count(details.get("generated_tokens")) or (usage.completion_tokens if usage is not None else 0)
    return "length" if limit is not None and made >= limit > 0 else "stop"


def _usage(usage: dict[str, Any]) -> TokenUsage | None:
    """OpenAI's names for the counts, which Kong looks for as well; None unless both are there."""
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if prompt is None or completion is None:
        return None
    return TokenUsage(
        prompt_tokens=count(prompt),
        completion_tokens=count(completion),
        total_tokens=count(usage.get("total_tokens")) or count(prompt) + count(completion),
    )
