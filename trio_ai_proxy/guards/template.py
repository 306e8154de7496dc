"""The guard `template`: a request that names a template gets its text, filled with the request's properties. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.templates import PROPERTIES, fill, gaps_in, name_in
from trio_ai_proxy.errors import GuardBlocked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.guards.base import Desk
    from trio_ai_proxy.settings import TemplateSettings

_FIELD = {"chat": "messages", "completions": "prompt"}


@dataclass(frozen=True, slots=True)
class Template:
    """See `RequestGuard`. Requests that are neither for chat nor for a completion have no prompt, and pass."""

    name: str
    templates: Mapping[str, TemplateSettings]
    allow_untemplated: bool = True

    async def enter(self, request: ChatRequest, desk: Desk) -> ChatRequest:
        """`request` with the template's messages or prompt, and without its properties. Raises `GuardBlocked` for a template
        that there is not, a property that is missing, or a request without a template where it must have one."""
        field = _FIELD.get(request.operation)
        if field is None:
            return request
        name = name_in(request.fields.get(field))
        if name is None:
            if self.allow_untemplated:
                return request
            raise self._refused(
                f'This model takes templates only: send "{field}": "{{template://NAME}}" and "{PROPERTIES}".',
                "template_required",
                field,
            )
        template = self.templates.get(name)
        if template is None:
            raise self._refused(f"There is no template `{name}`.", "unknown_template", field)
        if (request.operation == "chat") is not bool(template.messages):
            other = "chat" if template.messages else "completions"
            raise self._refused(f"The template `{name}` is for {other}.", "unknown_template", field)
        fields = {key: value for key, value in request.fields.items() if key != PROPERTIES}
        values = self._values(request.fields, template)
        fields[field] = _filled(template, values)
        return replace(request, fields=fields)

    def _values(self, fields: Mapping[str, Any], template: TemplateSettings) -> dict[str, str]:
        given = fields.get(PROPERTIES)
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise self._refused(f'"{PROPERTIES}" must be an object of texts.', "invalid_request", PROPERTIES)
        for key, value in given.items():
            if not isinstance(value, str):
                raise self._refused("A property must be a text.", "invalid_request", f"{PROPERTIES}.{key}")
        texts = [template.prompt or "", *(message.content for message in template.messages)]
        missing = dict.fromkeys(gap for text in texts for gap in gaps_in(text) if gap not in given)
        if missing:
            names = ", ".join(f'"{gap}"' for gap in missing)
            message = f'The template needs {names} in the request\'s "{PROPERTIES}".'
            raise self._refused(message, "missing_value", f"{PROPERTIES}.{next(iter(missing))}")
        return given

    def _refused(self, message: str, code: str, param: str) -> GuardBlocked:
        return GuardBlocked(message, guard=self.name, code=code, param=param)


def _filled(template: TemplateSettings, values: Mapping[str, str]) -> list[dict[str, str]] | str:
    if template.prompt is not None:
        return fill(template.prompt, values)
    return [{"role": message.role, "content": fill(message.content, values)} for message in template.messages]
