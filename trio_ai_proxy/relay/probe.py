"""One tiny call to a target, to see whether it answers: what `check --live` does for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import ProxyError
from trio_ai_proxy.upstream.attempt import check_answer, check_stream
from trio_ai_proxy.upstream.authorise import authorise

if TYPE_CHECKING:
    from trio_ai_proxy.relay.exchange import Target

_PATIENCE = 30.0
_MAX_BYTES = 1 * 2**20


async def probe(target: Target) -> str | None:
    """Ask `target` for one token. None if it answered, else one sentence on why not."""
    capabilities = target.provider.capabilities
    chat = "chat" in capabilities.operations
    prompt = {"messages": [{"role": "user", "content": "Say yes."}]} if chat else {"prompt": "Say"}
    request = ChatRequest(
        operation="chat" if chat else "completions", model=target.model, stream=capabilities.streams_only,
        include_usage=False, fields={**prompt, "max_tokens": 1},
    )  # fmt: skip
    try:
        with trio.fail_after(_PATIENCE):
            prepared = target.provider.prepare(request, model=target.model, stream=request.stream)
            authority = target.provider.authority
            if authority is not None:
                prepared = await authorise(authority, prepared, target.client, connect=target.timeouts.connect)
            response = await target.client.open(prepared, connect=target.timeouts.connect)
            try:
                check = check_stream if request.stream else check_answer
                await check(response, target.provider)
                await response.read_all(_MAX_BYTES)
            finally:
                await response.aclose()
    except trio.TooSlowError:
        return f"no answer within {_PATIENCE:g} s"
    except ProxyError as error:
        return error.message
    return None
