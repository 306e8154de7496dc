"""An OpenAI request for a server that takes a bare prompt: Llama 2's prompt format, and the parameters of Hugging Face's
text generation beside it.

Sources: Meta's reference for the prompt (https://github.com/meta-llama/llama/blob/main/llama/generation.py and
https://huggingface.co/blog/llama2#how-to-prompt-llama-2), and for the parameters
https://huggingface.co/docs/text-generation-inference/reference/api_reference
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.fields import Fate, settle_fields, unsupported
from trio_ai_proxy.chat.prompt import Prompt, TextPart, Turn
from trio_ai_proxy.chat.reading import read_prompt
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.chat.request import ChatRequest

# Parameters of text generation that clients may send beside OpenAI's fields.
_PASSED = (
    "top_k", "typical_p", "repetition_penalty", "do_sample", "truncate", "watermark", "return_full_text", "details",
    "decoder_input_details", "grammar", "adapter_id", "max_time", "stop_sequences",
)  # fmt: skip

FATES: Mapping[str, Fate] = MappingProxyType(
    {
        **dict.fromkeys(
            ("messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop"), "translated"
        ),
        **dict.fromkeys(("seed", "frequency_penalty", "prompt"), "translated"),
        **dict.fromkeys(_PASSED, "passed"),
    }
)
"""What becomes of the fields of a chat and of a completion."""

# What Meta's reference refuses within a message: there is no way to say these as text.
_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


_PARAGRAPH = "\n\n"


def raw_body(request: ChatRequest, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body of a request, and the names of the fields that are not said in it. Raises `InvalidRequest`."""
    prompt = read_prompt(request)
    dropped = settle_fields(request, FATES, provider=kind)
    text = llama2_prompt(prompt.turns, kind) if request.operation == "chat" else prompt.turns[0].text()
    body: dict[str, Any] = {"inputs": text, "parameters": _parameters(prompt, request.fields)}
    return body, dropped


def _parameters(prompt: Prompt, fields: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"max_new_tokens": prompt.max_tokens, "seed": prompt.seed}
    said["frequency_penalty"] = prompt.frequency_penalty
    # These servers refuse a temperature of 0, which means no sampling, and a top_p of 1, which means what leaving it out
    # means; and they do not sample unless they are told to, or some of them.
    if prompt.temperature == 0:
        said["do_sample"] = False
    else:
        said["temperature"] = prompt.temperature
        said["top_p"] = prompt.top_p if prompt.top_p is not None and prompt.top_p < 1 else None
        said["do_sample"] = True if prompt.temperature is not None or prompt.top_p is not None else None
    said["stop"] = list(prompt.stop) or None
    said["return_full_text"] = False  # the prompt is not part of the answer
    said |= {name: fields[name] for name in _PASSED if name in fields}
    return {name: value for name, value in said.items() if value is not None}


def llama2_prompt(turns: Sequence[Turn], kind: str) -> str:
    """A conversation in Llama 2's prompt format. All system messages stand in its one place for them, at the beginning. Where
    the last message is the assistant's, the model goes on from there.

    Raises `InvalidRequest` for what the format cannot say.
    """
    system = _PARAGRAPH.join(text for turn in turns if turn.role == "system" and (text := _text(turn, kind)))
    opening = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    rounds: list[tuple[list[str], list[str]]] = [([], [])]  # what the user said, and what the assistant answered
    for turn in turns:
        if turn.role == "user":
            if rounds[-1][1]:
                rounds.append(([], []))
            rounds[-1][0].append(_text(turn, kind))
        elif turn.role != "system":
            rounds[-1][1].append(_text(turn, kind))
    said = []
    for asked, answered in rounds:
        answer = _PARAGRAPH.join(answered)
        said.append(f"<s>[INST] {opening}{_PARAGRAPH.join(asked)} [/INST]" + (f" {answer}" if answer else ""))
        opening = ""
    return " </s>".join(said)


def _text(turn: Turn, kind: str) -> str:
    """The text of a message, which must hold nothing else. Raises `InvalidRequest`."""
    if turn.role == "tool":
        raise unsupported(turn.place, kind, "it has no tools")
    if turn.calls:
        raise unsupported(f"{turn.place}.tool_calls", kind, "it has no tools")
    for part in turn.parts:
        if not isinstance(part, TextPart):
            raise unsupported(part.place, kind, "it takes text alone")
    text = (turn.text() or turn.refusal).strip()
    mark = next((mark for mark in _MARKS if mark in text), None)
    if mark is not None:
        raise InvalidRequest(
            f'"{turn.place}.content" must not hold "{mark}": in the prompt of this model that is no text.',
            param=f"{turn.place}.content",
        )
    return text
