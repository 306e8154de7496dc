"""A credential, and how it keeps to itself."""

from __future__ import annotations


class Secret:
    """A credential. It shows itself to no one but `reveal`: not to `repr`, not to a log, not to an exception's text."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        """`source` says where it came from, for people: "environment variable OPENAI_API_KEY", "file /run/key",
        "config.toml:12"."""
        self._value = value
        self.source = source

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override needs 3.12
        return f"Secret(from {self.source})"

    def __eq__(self, other: object) -> bool:  # type: ignore[explicit-override]  # as above
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:  # type: ignore[explicit-override]  # as above
        return hash(self._value)
