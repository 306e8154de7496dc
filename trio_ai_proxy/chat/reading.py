"""OpenAI's fields, read once, so that no provider has to know their spellings and their variants.

What cannot be read is the client's fault and is named by its place (`messages.3.content.1`).

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec

from trio_ai_proxy.chat.prompt import (
    AudioPart,
    Call,
    Effort,
    FilePart,
    ImagePart,
    Part,
    Prompt,
    Schema,
    TextPart,
    Thought,
    Tool,
    ToolChoice,
    Turn,
)
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest


def read_prompt(request: ChatRequest) -> Prompt:
    """What a chat or a completion asks for; the prompt of a completion is one user message. Raises `InvalidRequest`."""
    fields = request.fields
    return Prompt(
        turns=_turns(fields["messages"]) if request.operation == "chat" else (_prompt_turn(fields["prompt"]),),
        tools=_tools(fields),
        tool_choice=_tool_choice(fields),
        parallel_tool_calls=_flag(fields, "parallel_tool_calls"),
        response=_response(fields.get("response_format")),
        max_tokens=_at_least_one(fields, "max_completion_tokens") or _at_least_one(fields, "max_tokens"),
        temperature=_number(fields, "temperature"),
        top_p=_number(fields, "top_p"),
        frequency_penalty=_number(fields, "frequency_penalty"),
        presence_penalty=_number(fields, "presence_penalty"),
        stop=_stop(fields.get("stop")),
        seed=_whole(fields, "seed"),
        n=_at_least_one(fields, "n") or 1,
        logprobs=bool(fields.get("logprobs")),
        top_logprobs=_whole(fields, "top_logprobs"),
        reasoning_effort=_effort(fields.get("reasoning_effort")),
        user=_text(fields, "user"),
        metadata=_metadata(fields.get("metadata")),
    )


def read_inputs(request: ChatRequest) -> tuple[str, ...]:
    """The texts of a request for embeddings. Raises `InvalidRequest`, also for tokens in place of text, which only OpenAI's
    own wire takes."""
    value = request.fields.get("input")
    if isinstance(value, str) and value:
        return (value,)
    if isinstance(value, list) and value and all(isinstance(text, str) and text for text in value):
        return tuple(value)
    raise InvalidRequest('"input" must be a text or a list of texts, none of them empty.', param="input")


# -- messages ---------------------------------------------------------------------------------------------------------


def _turns(messages: list[dict[str, Any]]) -> tuple[Turn, ...]:
    names: dict[str, str] = {}  # a tool's answer names the call, and some providers want the function
    turns = []
    for position, message in enumerate(messages):
        turn = _turn(message, f"messages.{position}", names)
        for call in turn.calls:
            names[call.id] = call.name
        turns.append(turn)
    return tuple(turns)


def _turn(message: dict[str, Any], place: str, names: dict[str, str]) -> Turn:
    role = message["role"]
    parts = _parts(message.get("content"), f"{place}.content", message.get("cache_control"))
    match role:
        case "system" | "developer":
            return Turn("system", parts, place=place)
        case "user":
            return Turn("user", parts, name=str(message.get("name") or ""), place=place)
        case "assistant":
            refusal = message.get("refusal")
            return Turn(
                "assistant",
                parts,
                _calls(message, place),
                _thoughts(message),
                refusal=refusal if isinstance(refusal, str) else "",
                place=place,
                reasoning=_reasoning(message),
            )
        case "tool" | "function":
            call_id = message.get("tool_call_id")
            if not isinstance(call_id, str):
                call_id = ""
            if role == "tool" and not call_id:
                raise _wrong(f"{place}.tool_call_id", "must say which call this answers")
            name = str(message.get("name") or names.get(call_id, ""))
            return Turn("tool", parts, call_id=call_id or _function_call_id(name), name=name, place=place)
        case _:
            raise _wrong(f"{place}.role", "must be system, developer, user, assistant or tool")


def _function_call_id(name: str) -> str:
    """The id of a call in OpenAI's older form, which had none."""
    return f"call_{name}"


def _parts(content: Any, place: str, cache: Any = None) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content, place, cache if isinstance(cache, dict) else None),) if content else ()
    if not isinstance(content, list):
        raise _wrong(place, "must be a text or a list of parts")
    parts: list[Part] = []
    for position, part in enumerate(content):
        where = f"{place}.{position}"
        if isinstance(part, str):
            parts.append(TextPart(part, where))
        elif isinstance(part, dict):
            parts += _part(part, where)
        else:
            raise _wrong(where, "must be an object")
    return tuple(parts)


def _part(part: dict[str, Any], place: str) -> list[Part]:
    cache = part.get("cache_control")
    cache = cache if isinstance(cache, dict) else None
    match part.get("type"):
        case "text" | "refusal" as kind:
            text = part.get(kind)
            if not isinstance(text, str):
                raise _wrong(f"{place}.{kind}", "must be a text")
            return [TextPart(text, place, cache)] if text else []
        case "image_url":
            return [_image(part.get("image_url"), f"{place}.image_url", place, cache)]
        case "input_audio":
            audio = part.get("input_audio")
            if not isinstance(audio, dict) or not isinstance(audio.get("data"), str):
                raise _wrong(f"{place}.input_audio", 'must be an object with "data" and "format"')
            return [
                AudioPart(_base64(audio["data"], f"{place}.input_audio.data"), str(audio.get("format") or ""), place)
            ]
        case "file":
            return [_file(part.get("file"), f"{place}.file", place, cache)]
        case "thinking" | "redacted_thinking":
            return []  # read by `_thoughts`
        case _:
            raise _wrong(f"{place}.type", "must be text, image_url, input_audio or file")


def _image(image: Any, where: str, place: str, cache: dict[str, Any] | None) -> ImagePart:
    url = image.get("url") if isinstance(image, dict) else image  # some clients send the address itself
    detail = str(image.get("detail") or "") if isinstance(image, dict) else ""
    if not isinstance(url, str) or not url:
        raise _wrong(f"{where}.url", "must be an address or a data URL")
    if not url.startswith("data:"):
        return ImagePart(url=url, detail=detail, place=place, cache=cache)
    media_type, data = _data_url(url, f"{where}.url")
    return ImagePart(data=data, media_type=media_type or "image/png", detail=detail, place=place, cache=cache)


def _file(file: Any, where: str, place: str, cache: dict[str, Any] | None) -> FilePart:
    if not isinstance(file, dict):
        raise _wrong(where, "must be an object")
    filename = str(file.get("filename") or "")
    file_id, data = file.get("file_id"), file.get("file_data")
    if isinstance(data, str) and data:
        if data.startswith("data:"):
            media_type, data = _data_url(data, f"{where}.file_data")
        elif data.startswith(("https://", "http://")):
            return FilePart(url=data, filename=filename, place=place, cache=cache)
        else:
            media_type, data = "", _base64(data, f"{where}.file_data")
        given = file.get("format")  # LiteLLM's name for the media type
        media_type = media_type or (given if isinstance(given, str) else "") or "application/pdf"
        return FilePart(data=data, media_type=media_type, filename=filename, place=place, cache=cache)
    if isinstance(file_id, str) and file_id:
        if file_id.startswith(("https://", "http://")):
            return FilePart(url=file_id, filename=filename, place=place, cache=cache)
        return FilePart(file_id=file_id, filename=filename, place=place, cache=cache)
    raise _wrong(where, 'must have a "file_id" or "file_data"')


def _data_url(url: str, place: str) -> tuple[str, str]:
    head, comma, data = url[len("data:") :].partition(",")
    media_type, *options = head.split(";")
    if not comma or "base64" not in (option.strip().lower() for option in options):
        raise _wrong(place, "must be a data URL in base64")
    return media_type.strip().lower(), _base64(data, place)


def _base64(data: str, place: str) -> str:
    try:
        b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(place, "must be base64") from None
    return data


def _thoughts(message: dict[str, Any]) -> tuple[Thought, ...]:
    """`thinking_blocks` beside the content, or blocks of that form within it."""
    blocks = message.get("thinking_blocks")
    content = message.get("content")
    found = [*(blocks if isinstance(blocks, list) else ()), *(content if isinstance(content, list) else ())]
    thoughts = []
    for block in found:
        if not isinstance(block, dict):
            continue
        if block.get("type") == "thinking":
            thoughts.append(Thought(str(block.get("thinking") or ""), str(block.get("signature") or "")))
        elif block.get("type") == "redacted_thinking":
            thoughts.append(Thought(redacted=str(block.get("data") or "")))
    return tuple(thoughts)


def _reasoning(message: dict[str, Any]) -> str:
    """The thoughts of an earlier answer as they were streamed, under either name that is in use."""
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _calls(message: dict[str, Any], place: str) -> tuple[Call, ...]:
    given = message.get("tool_calls")
    older = message.get("function_call")
    if not given and isinstance(older, dict):
        name = str(older.get("name") or "")
        return (Call(_function_call_id(name), name, str(older.get("arguments") or ""), place=f"{place}.function_call"),)
    if given is None:
        return ()
    if not isinstance(given, list):
        raise _wrong(f"{place}.tool_calls", "must be a list")
    return tuple(_call(call, f"{place}.tool_calls.{position}") for position, call in enumerate(given))


def _call(call: Any, place: str) -> Call:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _wrong(f"{place}.function", 'must be an object with a "name"')
    call_id = call.get("id")
    if not isinstance(call_id, str) or not call_id:
        raise _wrong(f"{place}.id", "must be a text")
    arguments = function.get("arguments")
    if isinstance(arguments, dict):  # some clients send the object itself
        arguments = msgspec.json.encode(arguments).decode()
    if arguments is not None and not isinstance(arguments, str):
        raise _wrong(f"{place}.function.arguments", "must be a JSON object, written as text")
    return Call(call_id, function["name"], arguments or "", _signature(call), place)


def _signature(call: dict[str, Any]) -> str:
    """Gemini's thought signature, where Google's own OpenAI endpoint puts it."""
    google = call.get("extra_content")
    google = google.get("google") if isinstance(google, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _prompt_turn(prompt: Any) -> Turn:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequest(
            'The provider of this model takes one text as "prompt": no list of several, and no tokens.',
            param="prompt",
            code="unsupported_parameter",
        )
    return Turn("user", (TextPart(prompt, "prompt"),), place="prompt")


# -- tools ------------------------------------------------------------------------------------------------------------


def _tools(fields: dict[str, Any]) -> tuple[Tool, ...]:
    tools = []
    for name in ("tools", "functions"):
        given = fields.get(name)
        if given is None:
            continue
        if not isinstance(given, list):
            raise _wrong(name, "must be a list")
        for position, tool in enumerate(given):
            place = f"{name}.{position}"
            tools.append(_tool({"type": "function", "function": tool} if name == "functions" else tool, place))
    return tuple(tools)


def _tool(tool: Any, place: str) -> Tool:
    if not isinstance(tool, dict):
        raise _wrong(place, "must be an object")
    if tool.get("type") != "function":
        raise _wrong(f"{place}.type", "must be function")
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise _wrong(f"{place}.function", 'must be an object with a "name"')
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise _wrong(f"{place}.function.parameters", "must be a JSON schema")
    description, strict, cache = function.get("description"), function.get("strict"), tool.get("cache_control")
    return Tool(
        function["name"],
        description if isinstance(description, str) else "",
        parameters,
        strict if isinstance(strict, bool) else None,
        place,
        cache if isinstance(cache, dict) else None,
    )


def _tool_choice(fields: dict[str, Any]) -> ToolChoice | None:
    for name in ("tool_choice", "function_call"):
        value = fields.get(name)
        match value:
            case None:
                continue
            case "auto" | "none" | "required":
                return ToolChoice(value)
            case {"type": "function", "function": {"name": str(wanted)}} | {"name": str(wanted)}:
                return ToolChoice("named", wanted)
            case _:
                raise _wrong(name, "must be auto, none, required or name a function")
    return None


def _response(value: Any) -> Schema | None:
    match value:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return Schema()
        case {"type": "json_schema", "json_schema": {"schema": dict(schema), **rest}}:
            strict, name, description = rest.get("strict"), rest.get("name"), rest.get("description")
            return Schema(
                schema,
                name if isinstance(name, str) else "",
                description if isinstance(description, str) else "",
                strict if isinstance(strict, bool) else None,
            )
        case _:
            raise _wrong("response_format", "must be of type text, json_object, or json_schema with a schema")


# -- plain values -----------------------------------------------------------------------------------------------------


def _wrong(place: str, what: str) -> InvalidRequest:
    return InvalidRequest(f'"{place}" {what}.', param=place)


def _flag(fields: dict[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "must be true or false")
    return value


def _number(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "must be a number")
    return value


def _whole(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "must be a whole number")
    return value


def _at_least_one(fields: dict[str, Any], name: str) -> int | None:
    value = _whole(fields, name)
    if value is not None and value < 1:
        raise _wrong(name, "must be at least 1")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "must be a text")
    return value or ""


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    raise _wrong("stop", "must be a text or a list of texts")


def _effort(value: Any) -> Effort | None:
    if value is None:
        return None
    for effort in get_args(Effort):
        if value == effort:
            return cast("Effort", effort)
    raise _wrong("reasoning_effort", f"must be one of {', '.join(get_args(Effort))}")


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _wrong("metadata", "must be an object of texts")
    return value
