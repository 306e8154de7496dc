"""What OpenAI's moderations say of each input: `results`, in the order of the inputs. Mistral's are the same without the word
`flagged`, which is then true where one of the categories is.

Source: https://platform.openai.com/docs/api-reference/moderations/create and https://docs.mistral.ai/api/endpoint/classifiers
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.events import Ended, Event, Moderated, Started, UsageReported
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.openai_wire import token_usage

if TYPE_CHECKING:
    from trio_ai_proxy.providers.openai_wire import Usage


class _Results(msgspec.Struct):
    results: list[dict[str, Any]] | None = None


_decode = msgspec.json.Decoder(_Results).decode


def read_judgements(body: bytes, started: Started, usage: Usage | None) -> list[Event]:
    """What a whole answer with judgements means; `started` and `usage` are what was read of it already. Raises
    `UpstreamProtocolError` if it has none, or one that does not say what was found."""
    try:
        results = _decode(body).results or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("The provider sent what is not a list of judgements.") from error
    if not results:
        raise UpstreamProtocolError("The provider's answer has no judgements.")
    events: list[Event] = [started, *(Moderated(_judged(result), index) for index, result in enumerate(results))]
    counted = token_usage(usage) if usage is not None else None
    if counted is not None:
        events.append(UsageReported(counted))
    events.append(Ended())
    return events


def _judged(result: dict[str, Any]) -> dict[str, Any]:
    categories = result.get("categories")
    if not isinstance(categories, dict) or not categories:
        raise UpstreamProtocolError("The provider's judgement has no categories.")
    flagged = result.get("flagged")
    if isinstance(flagged, bool):
        return result
    return {**result, "flagged": any(found is True for found in categories.values())}
