"""Rank files are checked, never changed; installing them is all or nothing."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from pathlib import Path

import pytest
from support.ranks import encoding, ranks_folder

from trio_ai_proxy.accounting.encodings import RANK_FILES
from trio_ai_proxy.accounting.ranks import _definition, default_ranks_dir, install_ranks, load_encoding
from trio_ai_proxy.errors import ConfigError


def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which no rank file lies anywhere, and none is kept."""
    return {"XDG_DATA_HOME": str(tmp_path / "data"), "TIKTOKEN_CACHE_DIR": str(tmp_path / "cache")}


def test_an_encoding_built_from_a_file_counts_as_tiktoken_documents() -> None:
    assert encoding("o200k_base").encode_ordinary("hello world") == [24912, 2375]
    assert encoding("cl100k_base").encode_ordinary("hello world") == [15339, 1917]


@pytest.mark.parametrize("name", RANK_FILES)
def test_the_table_holds_what_tiktoken_itself_says_of_the_file(name: str) -> None:
    told: list[tuple[str, str | None]] = []

    def note(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
        told.append((hashlib.sha1(address.encode()).hexdigest(), expected_hash))
        return {}

    assert _definition(name, note)["name"] == name
    assert told == [(RANK_FILES[name].cache_name, RANK_FILES[name].sha256)]


def test_the_data_folder_of_the_user_holds_rank_files_by_default() -> None:
    assert default_ranks_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/trio-ai-proxy/ranks")
    assert default_ranks_dir({"HOME": "/home/me"}) == Path("/home/me/.local/share/trio-ai-proxy/ranks")


def test_a_file_in_the_default_folder_is_found_without_any_setting(tmp_path: Path) -> None:
    environ = nowhere(tmp_path)
    folder = default_ranks_dir(environ)
    folder.mkdir(parents=True)
    shutil.copy(ranks_folder() / "cl100k_base.tiktoken", folder)
    assert load_encoding("cl100k_base", None, environ).name == "cl100k_base"
    assert load_encoding("cl100k_base", str(tmp_path / "elsewhere"), environ).name == "cl100k_base"


def test_a_file_in_the_cache_of_tiktoken_is_found_under_its_name_there(tmp_path: Path) -> None:
    environ = nowhere(tmp_path)
    (tmp_path / "cache").mkdir()
    shutil.copy(ranks_folder() / "cl100k_base.tiktoken", tmp_path / "cache" / RANK_FILES["cl100k_base"].cache_name)
    assert load_encoding("cl100k_base", None, environ).name == "cl100k_base"


def test_a_file_that_is_not_what_it_should_be_is_refused_and_left_alone(tmp_path: Path) -> None:
    wrong = tmp_path / "o200k_base.tiktoken"
    wrong.write_bytes(b"IQ== 0\n")
    with pytest.raises(ConfigError, match=RANK_FILES["o200k_base"].sha256):
        load_encoding("o200k_base", str(tmp_path), nowhere(tmp_path))
    assert wrong.read_bytes() == b"IQ== 0\n"


def test_who_names_a_folder_gets_an_error_and_no_download_when_it_is_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokens install"):
        load_encoding("o200k_base", str(tmp_path), nowhere(tmp_path))


def test_an_encoding_that_nobody_knows_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such encoding: p50k"):
        load_encoding("p50k", str(tmp_path), nowhere(tmp_path))


def test_loading_leaves_no_copy_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ranks_folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    load_encoding("cl100k_base", str(folder), {"XDG_DATA_HOME": str(tmp_path / "data")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_rank_file_is_installed_whatever_it_is_called(tmp_path: Path, packed: bool) -> None:
    data = (ranks_folder() / "cl100k_base.tiktoken").read_bytes()
    given = tmp_path / "download"
    given.write_bytes(gzip.compress(data, 1) if packed else data)
    lines = install_ranks([given], tmp_path / "new" / "ranks")
    place = tmp_path / "new" / "ranks" / "cl100k_base.tiktoken"
    assert place.read_bytes() == data
    assert lines == [f"cl100k_base: {place} (from {given})"]
    assert [path.name for path in place.parent.iterdir()] == ["cl100k_base.tiktoken"]
    assert place.stat().st_mode & 0o777 == 0o644


def test_one_wrong_file_among_several_installs_nothing_and_the_error_names_the_sums(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"<html>captive portal</html>")
    with pytest.raises(ConfigError) as caught:
        install_ranks([ranks_folder() / "cl100k_base.tiktoken", wrong], tmp_path / "ranks")
    assert all(rank_file.sha256 in str(caught.value) for rank_file in RANK_FILES.values())
    assert not (tmp_path / "ranks").exists()


@pytest.mark.parametrize("content", [b"\x1f\x8b", b"\x1f\x8bgarbage", gzip.compress(bytes(2**25))])
def test_a_broken_archive_or_a_bomb_is_refused(tmp_path: Path, content: bytes) -> None:
    given = tmp_path / "given.gz"
    given.write_bytes(content)
    with pytest.raises(ConfigError, match=r"given\.gz"):
        install_ranks([given], tmp_path / "ranks")


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        install_ranks([tmp_path / "missing"], tmp_path / "ranks")


def test_a_folder_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "ranks").write_text("a file")
    with pytest.raises(ConfigError, match="cannot write"):
        install_ranks([ranks_folder() / "cl100k_base.tiktoken"], tmp_path / "ranks")


def test_without_files_both_come_from_the_cache_of_tiktoken_which_stays_as_it_is(tmp_path: Path) -> None:
    environ = nowhere(tmp_path)
    (tmp_path / "cache").mkdir()
    for name, rank_file in RANK_FILES.items():
        shutil.copy(ranks_folder() / f"{name}.tiktoken", tmp_path / "cache" / rank_file.cache_name)
    lines = install_ranks([], tmp_path / "ranks", environ)
    assert len(lines) == len(RANK_FILES)
    assert sorted(os.listdir(tmp_path / "ranks")) == sorted(f"{name}.tiktoken" for name in RANK_FILES)
    assert len(os.listdir(tmp_path / "cache")) == len(RANK_FILES)
