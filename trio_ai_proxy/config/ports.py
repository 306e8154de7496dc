"""Who may reach the two ports: one that other machines can reach asks for keys, and the admin port is a port apart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trio_ai_proxy.config.values import Address, WrongValue, read_address, shown
from trio_ai_proxy.errors import ConfigError

if TYPE_CHECKING:
    from trio_ai_proxy.settings import Settings


def check_bind(settings: Settings) -> None:
    """Apply the rules to settings whose `bind` came from elsewhere than the file. Raises `ConfigError`."""
    is_closed = bool(settings.keys) or settings.server.allow_anonymous
    server = settings.server
    faults, _ = port_faults(server.bind, settings.admin.bind, is_closed=is_closed, workers=server.workers)
    if faults:
        raise ConfigError([f"`bind` in [{table}] {text}." for table, text in faults])


def port_faults(
    data_bind: str | None, admin_bind: str | None, *, is_closed: bool, workers: int = 1
) -> tuple[list[tuple[str, str]], bool]:
    """What is wrong with two addresses (None: unknown; the admin port's may be "", off).

    is_closed  clients need keys, or the operator has said that they need none
    workers    how many processes want an admin port, from that address on

    Returns the table and the rest of a sentence for each fault, and whether other machines can reach the admin port.
    """
    faults: list[tuple[str, str]] = []

    def read(table: str, bind: str | None) -> Address | None:
        try:
            return read_address(bind) if bind is not None else None
        except WrongValue as wrong:
            faults.append((table, str(wrong)))  # not shown: it may be what a variable holds, and no address at all
            return None

    data, admin = read("server", data_bind), read("admin", admin_bind or None)
    if data and not data.is_loopback and not is_closed:
        text = (
            f"is {shown(data_bind)}, which other machines can reach, so it needs [[keys]] or `allow_anonymous = true`"
        )
        faults.append(("server", text))
    if data and admin and data.overlaps(admin):
        faults.append(("admin", f"is {shown(admin_bind)}, but the admin port is never on the data port"))
    elif admin and admin.port and admin.port + workers - 1 > 65535:
        text = (
            f"is {shown(admin_bind)}, from where {workers} `workers` want a port each, and 65535 is the last there is"
        )
        faults.append(("admin", text))
    elif data and admin and _reaches(admin, data, workers):
        text = f"is {shown(admin_bind)}, from where {workers} `workers` want a port each, and one is the data port"
        faults.append(("admin", text))
    return faults, admin is not None and not admin.is_loopback


def _reaches(admin: Address, data: Address, workers: int) -> bool:
    """Whether a further worker's admin port would be the data port. Port 0 is a free port each time."""
    return 0 < data.port - admin.port < workers and admin.port != 0 and replace(data, port=admin.port).overlaps(admin)
