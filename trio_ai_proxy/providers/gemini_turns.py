"""A conversation in Gemini's words: contents of two roles, each a list of parts, and one place for what the system says.

Turns of one role that follow one another are one content, but for the answers of tools: those stand in a content of their
own, in the order of the calls, as Gemini matches them by name and place. The system's words keep their order among
themselves; where they stood between others is lost, for the wire has one place for them, at the top.
Source: https://ai.google.dev/api/caching#Content and https://ai.google.dev/gemini-api/docs/thought-signatures
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trio_ai_proxy.chat.fields import unsupported
from trio_ai_proxy.chat.prompt import AudioPart, Call, FilePart, ImagePart, Part, TextPart, Turn
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from trio_ai_proxy.chat.prompt import Prompt

# A signature on text is told to clients as the seal of a thought, a form that other providers' signatures have too; Gemini
# refuses any but its own. By this mark ours are known when they come back.
MARK = "gemini:"

# What Google gives for a history whose signatures are lost (most of OpenAI's SDKs drop the field that holds them): without
# one on the first call of each step of the turn under way, Gemini 3 answers 400.
_NO_SIGNATURE = "skip_thought_signature_validator"

_FILE_ID = re.compile(r"files/[a-z0-9-]+")

# The types of files that Gemini reads, by the ends of their names: https://ai.google.dev/gemini-api/docs/file-input-methods
_TYPES = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "heic": "image/heic", "heif": "image/heif", "bmp": "image/bmp", "avif": "image/avif",
    "pdf": "application/pdf", "txt": "text/plain", "html": "text/html", "css": "text/css", "csv": "text/csv",
    "xml": "text/xml", "md": "text/markdown", "json": "application/json",
    "mp3": "audio/mpeg", "wav": "audio/wav", "ogg": "audio/ogg", "flac": "audio/flac", "aac": "audio/aac",
    "m4a": "audio/mp4", "mp4": "video/mp4", "mpeg": "video/mpeg", "mpg": "video/mpeg", "mov": "video/quicktime",
    "webm": "video/webm", "avi": "video/x-msvideo", "flv": "video/x-flv", "wmv": "video/x-ms-wmv", "3gp": "video/3gpp",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flavour:
    """What differs between Google's two services of this wire.

    kind          whose they are, for errors
    call_ids      calls of functions have ids
    files_url     where the addresses of uploaded files begin, "" where files cannot be uploaded
    needs_type    an address must come with its media type
    service_tier  there is a word for the tier
    """

    kind: str
    call_ids: bool
    files_url: str
    needs_type: bool
    service_tier: bool


def contents(prompt: Prompt, flavour: Flavour, *, model: str) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The contents, and the system's instruction if there is one. Raises `InvalidRequest` for what cannot be said."""
    system: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    calls: dict[str, int] = {}  # of the last turn of the model: where each stands among its calls
    answers: list[tuple[int, dict[str, Any]]] = []
    signs_calls = needs_signatures(model)
    under_way = max((at for at, turn in enumerate(prompt.turns) if turn.role == "user"), default=-1)
    before = ""
    for at, turn in enumerate(prompt.turns):
        if turn.role == "system":
            system += [_part(part, flavour) for part in turn.parts]
            continue
        if turn.role == "tool":
            if before != "tool":
                answers = []
                found.append({"role": "user", "parts": []})
            answers.append((calls.get(turn.call_id, len(calls)), _answer(turn, flavour)))
            found[-1]["parts"] = [part for _, part in sorted(answers, key=lambda answer: answer[0])]
        else:
            parts = _parts(turn, flavour, stand_in=_NO_SIGNATURE if signs_calls and at > under_way else "")
            if turn.calls:
                calls = {call.id: position for position, call in enumerate(turn.calls)}
            if not parts:
                continue
            if before == turn.role:
                found[-1]["parts"] += parts
            else:
                found.append({"role": "model" if turn.role == "assistant" else "user", "parts": parts})
        before = turn.role
    if not system:
        return found, None
    if not found or model.startswith("gemma"):  # Gemma has no place for it, and without contents there is no request
        if found and found[0]["role"] == "user":
            found[0]["parts"] = system + found[0]["parts"]
        else:
            found.insert(0, {"role": "user", "parts": system})
        return found, None
    return found, {"parts": system}


def needs_signatures(model: str) -> bool:
    """Whether calls of functions without their thought signature are refused: from Gemini 3 on."""
    return not re.match(r"gemini-[12](\D|$)|gemma|learnlm", model)


def _parts(turn: Turn, flavour: Flavour, *, stand_in: str) -> list[dict[str, Any]]:
    parts = [_part(part, flavour) for part in turn.parts]
    if turn.role == "user":
        return parts or [{"text": ""}]
    if turn.refusal:
        parts.append({"text": turn.refusal})
    seals = [one.signature.removeprefix(MARK) for one in turn.thoughts if one.signature.startswith(MARK)]
    if seals:
        # The last part of the text is where it came from; a stream may have it on a part of its own, without text.
        spoken = next((part for part in reversed(parts) if "text" in part), None)
        if spoken is None:
            parts.append(spoken := {"text": ""})
        spoken["thoughtSignature"] = seals[-1]
    for position, call in enumerate(turn.calls):
        parts.append(_call(call, flavour, stand_in=stand_in if position == 0 else ""))
    return parts


def _call(call: Call, flavour: Flavour, *, stand_in: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": call.name, "args": call.argument_object()}
    if flavour.call_ids:
        function["id"] = call.id
    signature = call.signature or stand_in
    return {"functionCall": function, **({"thoughtSignature": signature} if signature else {})}


def _answer(turn: Turn, flavour: Flavour) -> dict[str, Any]:
    """What a tool said. As text even where it is JSON: Gemini would read its numbers as floating point, and `$ref` in it as
    the name of a function."""
    if not turn.name:
        place = f"{turn.place}.tool_call_id"
        raise InvalidRequest(f'"{place}" answers no call of the messages before it.', param=place)
    response: dict[str, Any] = {"name": turn.name, "response": {"output": turn.text()}}
    if flavour.call_ids:
        response["id"] = turn.call_id
    media = [_part(part, flavour) for part in turn.parts if not isinstance(part, TextPart)]
    if media:
        response["parts"] = media
    return {"functionResponse": response}


def _part(part: Part, flavour: Flavour) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"text": part.text}
        case ImagePart(url=""):
            return _inline(part.data, part.media_type)
        case ImagePart():
            return _address(part.url, part.place, flavour, otherwise="image/jpeg")
        case AudioPart():
            return _inline(part.data, f"audio/{part.format or 'wav'}")
        case FilePart(file_id="", url=""):
            return _inline(part.data, part.media_type)
        case FilePart(file_id=""):
            return _address(part.url, part.place, flavour, otherwise="application/pdf")
        case FilePart(file_id=file_id) if file_id.startswith("gs://"):
            return _address(file_id, part.place, flavour, otherwise="application/pdf")
        case FilePart(file_id=file_id) if flavour.files_url and _FILE_ID.fullmatch(file_id):
            return {"fileData": {"fileUri": flavour.files_url + file_id}}
        case _:
            raise unsupported(part.place, flavour.kind, "a file is named by its address, or its bytes are sent along")


def _inline(data: str, media_type: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": media_type, "data": data}}


def _address(url: str, place: str, flavour: Flavour, *, otherwise: str) -> dict[str, Any]:
    """A file that Google fetches itself; we never do. Its media type is guessed from its name, and where nothing tells it,
    it is `otherwise` if there must be one."""
    if not url.startswith(("https://", "gs://")):
        raise unsupported(place, flavour.kind, "an address must begin with https:// or gs://")
    try:
        path = urlsplit(url).path
    except ValueError:
        raise unsupported(place, flavour.kind, "this is no address") from None
    media_type = _TYPES.get(path.rpartition(".")[2].lower()) or (otherwise if flavour.needs_type else None)
    return {"fileData": {"fileUri": url, **({"mimeType": media_type} if media_type else {})}}
