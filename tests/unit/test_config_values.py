"""Times, sizes, environment variables, addresses and URLs, one value at a time."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.config.values import (
    Rejected,
    Unresolved,
    WrongValue,
    check_base_url,
    expand,
    format_duration,
    format_size,
    read_address,
    read_duration,
    read_size,
    shown,
    type_name,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (30, 30.0),
        (0.5, 0.5),
        ("10m", 600.0),
        ("60s", 60.0),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        ("2m1s250ms", 121.25),
    ],
)
def test_durations_are_seconds_or_text_with_units(value: object, seconds: float) -> None:
    assert read_duration(value) == seconds
    assert type(read_duration(value)) is float


@pytest.mark.parametrize(
    "value",
    [
        *("", "m", "10", "10 m", "m10", "30m1h", "1h1h", "-1s", "1e3s", "10M", "٣s", "1s\n", "9" * 400 + "s"),
        *(0, 0.0, "0s", -1, -0.5, float("nan"), float("inf"), float("-inf"), 10**400),
        *(True, None, [], {}, datetime.time(1, 2)),
    ],
)
def test_what_is_no_time_to_wait_is_refused(value: object) -> None:
    with pytest.raises(WrongValue):
        read_duration(value)


def test_zero_is_a_duration_only_where_it_makes_sense() -> None:
    assert read_duration(0, zero=True) == 0.0
    assert read_duration("0s", zero=True) == 0.0
    with pytest.raises(WrongValue, match="must be zero or more and finite"):
        read_duration(-1, zero=True)


@given(st.integers(1, 10**10))
def test_a_formatted_duration_reads_as_itself(milliseconds: int) -> None:
    assert round(read_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


def test_durations_are_formatted_as_one_would_write_them() -> None:
    assert [format_duration(seconds) for seconds in (0, 0.25, 5, 60, 90, 900, 5400, 86400)] == [
        *("0s", "250ms", "5s", "1m", "1m30s", "15m", "1h30m", "1d")
    ]


@pytest.mark.parametrize(
    ("value", "size"),
    [(1, 1), ("10MiB", 10 * 2**20), ("64kB", 64000), ("1.5 KiB", 1536), ("2GB", 2 * 10**9), ("7B", 7), ("1GiB", 2**30)],
)
def test_sizes_are_bytes_or_text_with_a_unit(value: object, size: int) -> None:
    assert read_size(value) == size


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, True, "", "10", "10 mib", "MiB", "0B", "0.1B", "9" * 400 + "GiB", None, []]
)
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(WrongValue):
        read_size(value)


@given(st.integers(1, 2**50))
def test_a_formatted_size_reads_as_itself(size: int) -> None:
    assert read_size(format_size(size) if size < 10**15 else size) == size


def test_several_variables_in_one_text_are_expanded_once() -> None:
    environ = {"A": "1", "B": "${A}", "EMPTY": ""}
    assert expand("x${A}-${B}${EMPTY}$A$$", environ) == "x1-${A}$A$$"


def test_every_missing_variable_is_named() -> None:
    with pytest.raises(Unresolved) as raised:
        expand("${X}${Y}${Z}", {"Z": ""}, may_be_empty=False)
    assert [(missing.what, missing.why) for missing in raised.value.missing] == [
        ("environment variable X", "is not set"),
        ("environment variable Y", "is not set"),
        ("environment variable Z", "is empty"),
    ]


@pytest.mark.parametrize("text", ["${}", "${A-B}", "${A", "a${1}", "${ A }"])
def test_a_reference_that_names_no_variable_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match=r"has a \$\{ that names no environment variable"):
        expand(text, {"A": "1"})


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("127.1.2.3:0", "127.1.2.3", 0, True),
        ("[::1]:8000", "::1", 8000, True),
        ("LocalHost:65535", "localhost", 65535, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
        ("gateway.example.com:80", "gateway.example.com", 80, False),
        ("localhost.example.com:80", "localhost.example.com", 80, False),
        ("10.0.0.1:80", "10.0.0.1", 80, False),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int, is_loopback: bool) -> None:
    address = read_address(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, is_loopback)


@pytest.mark.parametrize(
    "text",
    ["", "8000", ":8000", "host", "host:", "host:x", "host:65536", "::1:80", "[::1]", "[1]:80", "a b:1", "unix:/x"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(WrongValue, match=r"must be an address and a port such as"):
        read_address(text)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("localhost:1", "127.0.0.1:1", True),
        ("localhost:1", "[::1]:1", True),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("example.com:1", "0.0.0.0:1", True),
        ("example.com:1", "127.0.0.1:1", False),
        ("example.com:1", "Example.com:1", True),
        ("[::1]:1", "[0::1]:1", True),
    ],
)
def test_two_addresses_overlap_when_both_cannot_be_had(one: str, other: str, overlap: bool) -> None:
    assert read_address(one).overlaps(read_address(other)) is overlap
    assert read_address(other).overlaps(read_address(one)) is overlap


@pytest.mark.parametrize(
    "url", ["https://api.openai.com/v1", "http://127.0.0.1:8080", "http://[::1]:8080/v1", "https://host/a/b%20c/"]
)
def test_a_base_url_is_a_place_and_a_path(url: str) -> None:
    check_base_url(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("api.openai.com/v1", "must be an http or https URL with a host"),
        ("ftp://host/", "must be an http or https URL with a host"),
        ("https:///v1", "must be an http or https URL with a host"),
        ("https://host:0/", "must be an http or https URL with a host"),
        ("https://host:99999/", "must be a URL with a valid host and port"),
        ("https://[::1/", "must be a URL with a valid host and port"),
        ("https://user:secret@host/", "must not hold a user name or password"),
        ("https://@host/", "must not hold a user name or password"),
        ("https://host/?key=1", "must not have a query or a fragment"),
        ("https://host/?", "must not have a query or a fragment"),
        ("https://host/#", "must not have a query or a fragment"),
        ("https://höst/", "must be a URL of printable ASCII characters"),
        ("https://host/a b", "must be a URL of printable ASCII characters"),
        ("https://host\n/", "must be a URL of printable ASCII characters"),
        ("https://host\\@evil/", "must be a URL of printable ASCII characters"),
    ],
)
def test_a_base_url_that_is_more_or_less_is_refused_and_not_repeated(url: str, why: str) -> None:
    with pytest.raises(Rejected) as raised:
        check_base_url(url)
    assert str(raised.value).startswith(why)
    assert "secret" not in str(raised.value)
    assert not isinstance(raised.value, WrongValue)


def test_values_are_shown_and_named_as_toml_has_them() -> None:
    values = [True, 3, 0.5, float("nan"), 'a"b\n', "x" * 100, [1], {}, datetime.date(2020, 1, 1), 10**100]
    assert [shown(value) for value in values] == [
        *("true", "3", "0.5", "nan", '"a\\"b\\n"', '"' + "x" * 59 + '…"', "an array", "a table", "a date or time"),
        "a whole number",
    ]
    assert [type_name(value) for value in (True, 1, 1.5, "")] == [
        *("true or false", "a whole number", "a decimal number", "text")
    ]
