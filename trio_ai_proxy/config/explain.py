"""Which targets a request goes to, in what order, and why: for people, by the code that routes, and without a network.

It is what a gateway would do that has just started: no breaker is open, and nothing is known of anybody's pace.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.accounting.tokens import count_prompt
from trio_ai_proxy.config.values import format_duration, format_size
from trio_ai_proxy.dialects.table import DIALECTS, with_options
from trio_ai_proxy.errors import ClientError, ConfigError, Forbidden, InvalidRequest, UnknownModel
from trio_ai_proxy.routing.caller import Caller
from trio_ai_proxy.routing.facts import ABILITIES, Facts, facts_of, target_facts
from trio_ai_proxy.routing.health import Health
from trio_ai_proxy.routing.placeholders import has_placeholders
from trio_ai_proxy.routing.router import Router, target_names
from trio_ai_proxy.routing.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.providers.base import Provider
    from trio_ai_proxy.routing.router import Line
    from trio_ai_proxy.settings import KeySettings, ModelSettings, Settings

_SHORT_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
_ROUTE_OF_FIELD = {"messages": "llm/v1/chat", "prompt": "llm/v1/completions", "input": "llm/v1/embeddings"}
_SPOKEN = {"json_schema": "an answer by a JSON schema"}
_CAVEAT = "This is a gateway that has just started. What a running one knows of its targets is at GET /targets of its admin port."


@dataclass(frozen=True, slots=True)
class Explanation:
    """`text` is for people, with a line feed at its end; `is_refused` says that the request would go nowhere."""

    text: str
    is_refused: bool


def explain(
    settings: Settings,
    providers: Mapping[str, Provider],
    *,
    model: str | None = None,
    body: bytes | None = None,
    key: str | None = None,
    headers: Sequence[str] = (),
) -> Explanation:
    """What becomes of one request.

    providers  by name, as `settings` describes them
    model      the name that the client asks for; None: the one in `body`
    body       an OpenAI request; None: a short chat
    key        name of one of `[[keys]]`, None for a client without one
    headers    of the request, each "name: value"

    Raises `ConfigError` where the question makes no sense.
    """
    request = _request(model, body)
    client = _client(settings, key)
    caller = Caller(headers=dict(map(_header, headers)))
    routes = Routes(settings)
    lines = [f"model     {request.model}", f"client    {_who(settings, key)}"]
    try:
        found = routes.resolve(request.model)
        if (client is not None or not settings.keys) and not routes.allowed(client, request.model):
            raise Forbidden(f"This key may not use the model `{request.model}`.", param="model")
    except UnknownModel:
        names = ", ".join(settings.models) or "none"
        raise ConfigError([f"--model {request.model}: there is no such model; there are: {names}."]) from None
    except Forbidden as error:
        return _refused(lines, error)
    # As the gateway: only a target that says how much it holds needs to know how long the prompt is.
    is_measured = any(target.max_context is not None for target in found.targets)
    tokens = count_prompt(request.fields, request.operation, None) if is_measured else 0
    facts = facts_of(request, found, caller, key=key, tokens=tokens)
    lines.append(f"request   {_needs(request, facts)}")
    if found.response_streaming == "deny" and request.stream:
        return _refused(lines, InvalidRequest(f"Streaming is not allowed for the model `{request.model}`."))
    abilities = [
        target_facts(target, providers[target.provider].for_model(target.model).capabilities)
        for target in found.targets
    ]
    router = Router(found, [Health(found.breaker) for _ in found.targets], abilities)
    rows = router.explain(facts, now=0.0)
    fates = [_fate(request, found, providers, row.index) for row in rows]
    lines += ["", *_table(rows, fates), ""]
    asked = [fate for row, fate in zip(rows, fates, strict=True) if row.order is not None]
    refusal: ClientError | None = router.refusal(facts)
    if refusal is None and not any(isinstance(fate, str) for fate in asked):
        refusal = next((fate for fate in asked if isinstance(fate, ClientError)), None)
    if refusal is not None:
        return _refused(lines, refusal)
    lines += [
        _then(found, sum(row.order is not None for row in rows)),
        *_by_meaning(found),
        *_several_credentials(found, settings),
        _CAVEAT,
    ]
    return Explanation("\n".join(lines) + "\n", is_refused=False)


def _refused(lines: list[str], error: ClientError) -> Explanation:
    text = "\n".join([*lines, f"refused with {error.status} ({error.code}): {error.message}"])
    return Explanation(text + "\n", is_refused=True)


def _request(model: str | None, body: bytes | None) -> ChatRequest:
    try:
        fields = dict(_SHORT_CHAT) if body is None else msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError([f"--request: this is no JSON: {error}."]) from error
    if not isinstance(fields, dict):
        raise ConfigError(["--request: a request is a JSON object."])
    if model is not None:
        fields["model"] = model
    elif "model" not in fields:
        raise ConfigError(["The request names no model; add --model NAME."])
    route_type = next((route for field, route in _ROUTE_OF_FIELD.items() if field in fields), "llm/v1/chat")
    try:
        return DIALECTS[route_type].parse_request(msgspec.json.encode(fields))
    except ClientError as error:
        raise ConfigError([f"--request: {error.message}"]) from error


def _client(settings: Settings, name: str | None) -> KeySettings | None:
    if name is None:
        return None
    found = next((key for key in settings.keys if key.name == name), None)
    if found is None:
        names = ", ".join(key.name for key in settings.keys) or "none"
        raise ConfigError([f"--key {name}: there is no such name in [[keys]]; there are: {names}."])
    return found


def _who(settings: Settings, key: str | None) -> str:
    if key is not None:
        return f"key {key}"
    return "not said (--key NAME): no rule by key holds" if settings.keys else "anyone: there are no [[keys]]"


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # Not repeated: it may be a credential.
        raise ConfigError(['--header: write "name: value".'])
    return name.strip().lower().encode(), value.strip().encode()


def _needs(request: ChatRequest, facts: Facts) -> str:
    """The request, as far as targets are told apart by it."""
    said = [request.operation + (", streamed" if request.stream else "")]
    needs = [_SPOKEN.get(name, name) for name in ABILITIES if getattr(facts, name)]
    if needs:
        said.append(f"needs {', '.join(needs)}")
    if facts.tokens:
        said.append(f"about {facts.tokens} tokens with its answer")
    if facts.hash_value is not None:
        said.append(f"kept together by {facts.hash_value}")
    said += [f"{name}: {value}" for name, value in facts.headers.items()]
    return "; ".join(said)


def _table(rows: Sequence[Line], fates: Sequence[str | ClientError]) -> list[str]:
    width = max(len(row.name) for row in rows)
    lines = []
    for row, fate in zip(rows, fates, strict=True):
        # What a target that is not asked would say is of no interest.
        said = fate if isinstance(fate, str) else f"cannot be asked this: {fate.message}"
        why = [*row.why, said] if said and row.order is not None else row.why
        lines.append(f"  {row.order or '-':>2}  {row.name:<{width}}  {', '.join(why)}".rstrip())
    return lines


def _fate(
    request: ChatRequest, model: ModelSettings, providers: Mapping[str, Provider], index: int
) -> str | ClientError:
    """What the provider's own wire makes of the request, where that is worth a word; or why it cannot be asked."""
    target = model.targets[index]
    provider = providers[target.provider].for_model(target.model)
    able = provider.capabilities
    if request.operation not in able.operations:
        return InvalidRequest(f"The model `{request.model}` does not serve {request.operation}.", param="model")
    options = {name: value for name, value in model.options.items() if not has_placeholders(value)}
    fields = with_options(request.fields, options, force=model.force_options) if options else request.fields
    request = replace(request, fields=fields, unsupported=model.unsupported)
    wanted = request.stream or model.response_streaming == "always" or able.streams_only
    stream = wanted and request.can_stream and not able.never_streams
    try:
        prepared = provider.prepare(request, model=target.model, stream=stream)
    except ClientError as error:
        return error
    return f"is not told {', '.join(prepared.dropped)}" if prepared.dropped else ""


def _by_meaning(model: ModelSettings) -> list[str]:
    """How the order changes with what is asked, which takes an embeddings model to say."""
    if model.balance != "semantic" or model.semantic is None:
        return []
    names = target_names(model.targets)
    described = [
        f'{name} ("{one.description}")' for name, one in zip(names, model.targets, strict=True) if one.description
    ]
    rest = [name for name, one in zip(names, model.targets, strict=True) if one.description is None]
    below = f"below that {', '.join(rest)}" if rest else "below that too"
    semantic = model.semantic
    return [
        f"By meaning: `{semantic.model}` embeds the text of the user's last message. Among targets of equal priority the one "
        f"goes first whose description is nearest, at a similarity of {semantic.threshold:g} or more; {below}; the others "
        "follow by nearness.",
        f"Described: {', '.join(described) or 'none'}. Nobody is asked here: the order above is by weight, as it is where there "
        f"are no vectors within {format_duration(semantic.timeout)}.",
    ]


def _several_credentials(model: ModelSettings, settings: Settings) -> list[str]:
    names = dict.fromkeys(target.provider for target in model.targets)
    counts = {name: len(settings.providers[name].api_keys) for name in names}
    return [
        f"Provider {name} has {count} credentials that take turns: one that is refused or limited is followed by another at once."
        for name, count in counts.items()
        if count > 1
    ]


def _then(model: ModelSettings, count: int) -> str:
    """What follows when the first does not answer."""
    retries = (
        "no retry" if model.retries == 0 else f"up to {model.retries} {'retry' if model.retries == 1 else 'retries'}"
    )
    said = [f"{retries} of each" + (", then the next in order" if count > 1 else "")]
    if model.hedge_after is not None and count > 1:
        after = model.hedge_after if isinstance(model.hedge_after, str) else format_duration(model.hedge_after)
        said.append(f"the next is asked beside a silent one after {after}")
    if model.continuation == "hold":
        window = f"{format_size(model.hold_bytes)} or {format_duration(model.hold_for)}"
        said.append(f"the answer's first {window} are held back, and what breaks off within them is made again unseen")
    said.append(
        "an answer that breaks off is an error in the stream"
        if model.continuation == "off"
        else "an answer that breaks off is continued by another attempt"
    )
    return f"Before the first token: {'; '.join(said[:-1])}. After it: {said[-1]}."
