"""Where encodings come from: rank files that are checked by their sum and never changed, moved or deleted.

tiktoken deletes a cached file whose sum is wrong, copies local files into the temporary folder and downloads without a
timeout, under a lock; so a file that is at hand is read here. Everything blocks: callers on Trio use a worker thread
and a deadline.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import tempfile
import zlib
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.accounting.encodings import RANK_FILES
from trio_ai_proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tiktoken import Encoding

# The larger of the two is 3.6 MB; nothing that could pass the check is anywhere near this.
MAX_RANK_BYTES = 16 * 2**20
INSTALL_HINT = "`trio-ai-proxy tokens install` puts it in place"


def default_ranks_dir(environ: Mapping[str, str]) -> Path:
    """Where rank files live unless the configuration says otherwise: the user's data folder (XDG base directories)."""
    data_home = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".local" / "share"
    return Path(data_home) / "trio-ai-proxy" / "ranks"


def load_encoding(name: str, ranks_dir: str | None, environ: Mapping[str, str] = os.environ) -> Encoding:
    """The encoding `name`, from the first that has its file: `ranks_dir`, the default folder, tiktoken's cache.

    If none has, tiktoken downloads it, but only without a `ranks_dir`: who names a folder wants no network. Raises
    `ConfigError` for an unknown name, a file that is not what it should be, and for none where none may be fetched;
    `OSError` when a file cannot be read or the download fails.
    """
    if name not in RANK_FILES:
        raise ConfigError([f"no such encoding: {name} (there are {', '.join(RANK_FILES)})"])
    folders = [Path(ranks_dir)] if ranks_dir is not None else []
    candidates = [folder / f"{name}.tiktoken" for folder in (*folders, default_ranks_dir(environ))]
    if cache := tiktoken_cache(environ):
        candidates.append(cache / RANK_FILES[name].cache_name)
    for path in candidates:
        if path.is_file():
            return build_encoding(name, read_ranks(name, path))
    if ranks_dir is not None:
        raise ConfigError([f"{ranks_dir} has no {name}.tiktoken; {INSTALL_HINT}"])
    import tiktoken

    return tiktoken.get_encoding(name)


def tiktoken_cache(environ: Mapping[str, str]) -> Path | None:
    """The folder in which tiktoken keeps what it downloads, None if it is told to keep nothing."""
    chosen = environ.get("TIKTOKEN_CACHE_DIR", environ.get("DATA_GYM_CACHE_DIR"))
    if chosen is None:
        return Path(tempfile.gettempdir()) / "data-gym-cache"
    return Path(chosen) if chosen else None


def read_ranks(name: str, path: Path) -> bytes:
    """The content of the rank file of encoding `name`. Raises `ConfigError` if it is another; it stays as it is."""
    data = _read_bounded(path)
    if hashlib.sha256(data).hexdigest() != RANK_FILES[name].sha256:
        raise ConfigError(
            [f"{path} is not the rank file of {name}: its SHA-256 is not {RANK_FILES[name].sha256}; {INSTALL_HINT}"]
        )
    return data


def build_encoding(name: str, data: bytes) -> Encoding:
    """The encoding `name` over the rank file's content."""
    import tiktoken

    def parse(_address: str, expected_hash: str | None = None) -> dict[bytes, int]:
        pairs = (line.split() for line in data.splitlines() if line)
        return {base64.b64decode(token): int(rank) for token, rank in pairs}

    return tiktoken.Encoding(**_definition(name, parse))


def install_ranks(
    files: Sequence[str | Path], ranks_dir: str | Path, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """Put rank files in place as `<ranks_dir>/<encoding>.tiktoken`; says in one line for each what was done.

    `files` are recognised by their content, plain or gzipped, whatever they are called. With none given, both are taken
    from tiktoken's cache, else downloaded, for as long as that takes. Raises `ConfigError` for a file that is no rank
    file (nothing is installed then), for a failed download and for a folder that cannot be written.
    """
    found = [_recognise(Path(file)) for file in files] or [_obtain(name, environ) for name in RANK_FILES]
    lines = []
    for name, origin, data in found:
        place = Path(ranks_dir) / f"{name}.tiktoken"
        try:
            _write_whole(place, data)
        except OSError as error:
            raise ConfigError([f"cannot write {place}: {error.strerror or error}"]) from error
        lines.append(f"{name}: {place} (from {origin})")
    return lines


def _definition(name: str, load: Callable[..., dict[bytes, int]]) -> dict[str, Any]:
    """What tiktoken defines the encoding `name` by, with `load` in the place of tiktoken's loader.

    The constructor runs with globals of its own: nothing in tiktoken is changed, no lock is taken, nothing is fetched.
    """
    from tiktoken_ext import openai_public  # type: ignore[import-untyped]

    constructor = openai_public.ENCODING_CONSTRUCTORS[name]
    private = FunctionType(constructor.__code__, {**vars(openai_public), "load_tiktoken_bpe": load})
    definition: dict[str, Any] = private()
    return definition


def _recognise(path: Path) -> tuple[str, str, bytes]:
    try:
        data = _read_bounded(path)
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(MAX_RANK_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError([f"cannot read {path}: {error}"]) from error
    digest = hashlib.sha256(data).hexdigest()
    for name, rank_file in RANK_FILES.items():
        if digest == rank_file.sha256:
            return name, str(path), data
    expected = ", ".join(f"{rank_file.sha256} ({name})" for name, rank_file in RANK_FILES.items())
    raise ConfigError([f"{path} is no rank file: its SHA-256 is {digest}, expected is one of {expected}"])


def _obtain(name: str, environ: Mapping[str, str]) -> tuple[str, str, bytes]:
    cache = tiktoken_cache(environ)
    cached = cache / RANK_FILES[name].cache_name if cache else None
    if cached is not None and cached.is_file():
        return name, str(cached), read_ranks(name, cached)
    data, address = _download(name)
    if hashlib.sha256(data).hexdigest() != RANK_FILES[name].sha256:
        raise ConfigError([f"{address} gave something else than the rank file of {name}"])
    return name, address, data


def _download(name: str) -> tuple[bytes, str]:
    """What lies where tiktoken says that the rank file is, and that address."""
    from tiktoken.load import read_file

    addresses: list[str] = []

    def note(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
        addresses.append(address)
        return {}

    _definition(name, note)
    try:
        return read_file(addresses[0]), addresses[0]
    except OSError as error:  # the errors of `requests` are OSErrors
        raise ConfigError(
            [
                f"cannot download the rank file of {name} ({type(error).__name__}); get {addresses[0]} on a machine "
                f"that can, and give the file to `trio-ai-proxy tokens install FILE`"
            ]
        ) from error


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_RANK_BYTES + 1)


def _write_whole(place: Path, data: bytes) -> None:
    """Write the file so that it is there whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(place)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
