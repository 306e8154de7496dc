"""Where a key of an AWS account comes from, in the order of the AWS SDKs, and when it is fetched anew.

    1  the block's own keys                     5  the shared files (AWS_PROFILE, else the profile "default")
    2  the block's `profile`                    6  the container's credentials
    3  AWS_ACCESS_KEY_ID and its secret         7  the instance's metadata (IMDSv2)
    4  web identity (AWS_ROLE_ARN with a token file)

A `role_arn` of the block is then assumed with what was found. Each way is a generator: it yields what has to be asked or
read and is sent the answer. No answer is ever quoted in an error: it may hold the credential.
Source: https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_ai_proxy.errors import UpstreamError, UpstreamRefused
from trio_ai_proxy.providers.aws_answers import Reply, read_key, read_sts_key, session_of, sts_request, words_of
from trio_ai_proxy.providers.aws_profiles import read_profiles, why_not
from trio_ai_proxy.providers.aws_sign import Credential, sign
from trio_ai_proxy.providers.base import FileStep, UpstreamRequest
from trio_ai_proxy.providers.error_words import scrubber

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from trio_ai_proxy.providers.aws_profiles import Profile
    from trio_ai_proxy.settings import ProviderSettings

_MARGIN = 300.0  # seconds before its end that a key is replaced: services give the next one out no later
_PAUSE = 30.0  # seconds until it is tried again where that failed and the key is good for a while yet
_KEPT = 4  # keys that errors must not show: the last ones may still be in an answer
_METADATA = "http://169.254.169.254"
_CONTAINER = "http://169.254.170.2"
_METADATA_TOKEN_SECONDS = "21600"  # noqa: S105  # no secret: the lifetime that is asked for

# Where a container's credentials may be asked for without TLS: this machine, and the agents of ECS and EKS.
_CONTAINER_HOSTS = re.compile(
    r"http://(localhost|127(\.\d{1,3}){3}|\[::1\]|169\.254\.170\.2|169\.254\.170\.23|\[fd00:ec2::23\])(:\d+)?(/|\?|$)"
).match

_ROLE_NAME = re.compile(r"[\w+=,.@-]+", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request, to be signed with `signer` (at the time at which it goes out) if there is one."""

    request: UpstreamRequest
    signer: Credential | None = None


if TYPE_CHECKING:
    Fetch = Generator[_Ask | FileStep, Reply, Credential]


class AwsAuthority:
    """An `Authority` that signs for `service` in `region`; see the module for where its key comes from."""

    def __init__(self, settings: ProviderSettings, *, region: str, service: str) -> None:
        self._settings = settings
        self._environment = settings.environment
        self._region = region
        self._service = service
        self._credential: Credential | None = None
        self._renew_at = 0.0
        self._fetch: Fetch | None = None
        self._asked: _Ask | FileStep | None = None
        self._recent: deque[Credential] = deque(maxlen=_KEPT)
        self._scrub = scrubber(())

    def step(self, now: float) -> UpstreamRequest | FileStep | None:
        """See `Authority.step`. Raises `UpstreamRefused` if there is no way left to try."""
        if self._asked is None:
            if self._credential is not None and now < self._renew_at:
                return None
            self._fetch = self._ways()
            self._advance(self._fetch, None, now)
        asked = self._asked
        if not isinstance(asked, _Ask):
            return asked
        if asked.signer is None:
            return asked.request
        return sign(asked.request, asked.signer, region=self._region, service="sts", now=now)

    def accept(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """See `Authority.accept`."""
        if self._fetch is not None:
            self._advance(self._fetch, Reply(status, body, now), now)

    def sign(self, request: UpstreamRequest, now: float) -> UpstreamRequest:
        """See `Authority.sign`."""
        if self._credential is None:
            raise UpstreamRefused("There is no AWS credential to sign with.")
        return sign(request, self._credential, region=self._region, service=self._service, now=now)

    def reject(self) -> None:
        """See `Authority.reject`."""
        self._credential = None

    def scrub(self, text: str) -> str:
        """`text` without the keys that were in use lately. AWS quotes the session token where a signature is wrong."""
        return self._scrub(text)

    def _advance(self, fetch: Fetch, reply: Reply | None, now: float) -> None:
        self._asked = None
        try:
            self._asked = next(fetch) if reply is None else fetch.send(reply)
        except StopIteration as end:
            self._fetch = None
            self._take(end.value, now)
        except UpstreamError:
            self._fetch = None
            left = self._credential.expires_at - now if self._credential is not None else 0.0
            if left <= 0:
                raise
            self._renew_at = now + min(_PAUSE, left / 2)  # what there is will do until then

    def _take(self, credential: Credential, now: float) -> None:
        self._credential = credential
        lifetime = credential.expires_at - now
        # A key that is given out when it has already expired is used for a while: the metadata service does so when it
        # cannot renew it, and the service may still take it.
        self._renew_at = now + lifetime - min(_MARGIN, lifetime / 2) if lifetime > 0 else now + 60
        self._recent.append(credential)
        self._scrub = scrubber(
            value
            for one in self._recent
            for value in (one.secret_access_key, one.session_token, one.access_key_id)
            if value
        )

    # -- the ways -------------------------------------------------------------------------------------------------------

    def _ways(self) -> Fetch:
        credential = yield from self._first_way()
        role = self._settings.role_arn
        if role:
            credential = yield from self._assume({"RoleArn": role}, credential)
        return credential

    def _first_way(self) -> Fetch:
        settings, environment = self._settings, self._environment
        if settings.access_key_id and settings.secret_access_key is not None:
            token = settings.session_token.reveal() if settings.session_token is not None else ""
            return Credential(settings.access_key_id, settings.secret_access_key.reveal(), token)
        if settings.profile:
            return (yield from self._from_files(settings.profile))
        if key := self._from_environment():
            return key
        role, token_file = environment.get("AWS_ROLE_ARN"), environment.get("AWS_WEB_IDENTITY_TOKEN_FILE")
        if role and token_file:
            return (yield from self._from_web_identity({"RoleArn": role}, token_file))
        named = environment.get("AWS_PROFILE")
        if named or self._file("AWS_SHARED_CREDENTIALS_FILE", "credentials"):
            found = yield from self._profiles()
            profile = found.get(named or "default")
            # A "default" that gives no key (it may only name a region) is as good as none.
            if named or (profile and not _is_mute(profile)):
                return (yield from self._of_profile(named or "default", found, ()))
        if self._has_container():
            return (yield from self._from_container())
        if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            raise UpstreamRefused(
                "There is no AWS credential: none is configured, in the environment, in the shared files or in a "
                "container, and AWS_EC2_METADATA_DISABLED is set."
            )
        return (yield from self._from_metadata())

    def _from_environment(self) -> Credential | None:
        key, secret = (self._environment.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
        if not key or not secret:
            return None
        return Credential(key, secret, self._environment.get("AWS_SESSION_TOKEN") or "")

    def _from_web_identity(self, role: dict[str, str], token_file: str) -> Fetch:
        reply = yield FileStep(token_file)
        token = reply.body.decode("utf-8", "replace").strip()
        if not token:
            raise UpstreamRefused("The AWS web identity token file is empty.")
        fields = {**role, "RoleSessionName": self._session(role), "WebIdentityToken": token}
        reply = yield _Ask(sts_request(self._sts, "AssumeRoleWithWebIdentity", fields))
        return read_sts_key(reply, "AssumeRoleWithWebIdentity")

    def _assume(self, role: dict[str, str], signer: Credential) -> Fetch:
        fields = {**role, "RoleSessionName": self._session(role)}
        reply = yield _Ask(sts_request(self._sts, "AssumeRole", fields), signer)
        return read_sts_key(reply, "AssumeRole")

    def _has_container(self) -> bool:
        names = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
        return any(self._environment.get(name) for name in names)

    def _from_container(self) -> Fetch:
        environment = self._environment
        relative = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        url = _CONTAINER + relative if relative else environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        if not url.startswith("https://") and not _CONTAINER_HOSTS(url):
            raise UpstreamRefused(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or on this machine or the container's agent."
            )
        token = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN") or ""
        if token_file := environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            token = (yield FileStep(token_file)).body.decode("utf-8", "replace").strip()
        if not token.isprintable() or not token.isascii():
            raise UpstreamRefused("The AWS container authorization token is not one line of text.")
        reply = yield _Ask(_get(url, authorization=token) if token else _get(url))
        return read_key(reply, "the container's credentials")

    def _from_metadata(self) -> Fetch:
        base = (self._environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _METADATA).rstrip("/")
        lifetime = ((b"x-aws-ec2-metadata-token-ttl-seconds", _METADATA_TOKEN_SECONDS.encode()),)
        reply = yield _Ask(UpstreamRequest("PUT", f"{base}/latest/api/token", lifetime, b"", stream=False))
        token = words_of(reply, "the instance's metadata")
        headers = {"x-aws-ec2-metadata-token": token}
        place = f"{base}/latest/meta-data/iam/security-credentials/"
        reply = yield _Ask(_get(place, **headers))
        role = words_of(reply, "the instance's metadata").partition("\n")[0].strip()
        if not _ROLE_NAME(role):
            raise UpstreamRefused("The instance's metadata names no role.")
        reply = yield _Ask(_get(place + role, **headers))
        return read_key(reply, "the instance's metadata")

    # -- the shared files -----------------------------------------------------------------------------------------------

    def _from_files(self, name: str) -> Fetch:
        return (yield from self._of_profile(name, (yield from self._profiles()), ()))

    def _profiles(self) -> Generator[_Ask | FileStep, Reply, dict[str, Profile]]:
        texts = []
        for variable, file in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
            path = self._file(variable, file)
            texts.append((yield FileStep(path, optional=True)).body if path else b"")
        return read_profiles(*texts)

    def _file(self, variable: str, name: str) -> str:
        home = self._environment.get("HOME", "")
        path = self._environment.get(variable) or (f"{home}/.aws/{name}" if home else "")
        return home + path[1:] if path.startswith("~/") else path

    def _of_profile(self, name: str, profiles: dict[str, Profile], behind: tuple[str, ...]) -> Fetch:
        """The key of a profile: its own, or that of a role assumed with another profile's. `behind` are the profiles that
        led here."""
        profile = profiles.get(name)
        if profile is None:
            raise UpstreamRefused(f"There is no AWS profile '{name}' in the shared files.")
        role = profile.get("role_arn")
        # A profile may name itself as the source of the key with which its role is assumed.
        if role and behind[-1:] != (name,):
            if name in behind:
                raise UpstreamRefused(f"The AWS profile '{name}' is its own source.")
            return (yield from self._role_of_profile(name, profiles, behind))
        key, secret = profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")
        if key and secret:
            return Credential(key, secret, profile.get("aws_session_token", ""))
        reason = why_not(profile) or "holds no key"
        raise UpstreamRefused(f"The AWS profile '{name}' cannot be used: it {reason}.")

    def _role_of_profile(self, name: str, profiles: dict[str, Profile], behind: tuple[str, ...]) -> Fetch:
        profile = profiles[name]
        fields = {"RoleArn": profile["role_arn"]}
        for key, field in (
            ("role_session_name", "RoleSessionName"),
            ("external_id", "ExternalId"),
            ("duration_seconds", "DurationSeconds"),
        ):
            if value := profile.get(key):
                fields[field] = value
        if token_file := profile.get("web_identity_token_file"):
            fields.pop("ExternalId", None)
            return (yield from self._from_web_identity(fields, token_file))
        if "mfa_serial" in profile:
            raise UpstreamRefused(f"The AWS profile '{name}' cannot be used: it {why_not({'mfa_serial': ''})}.")
        if source := profile.get("source_profile"):
            signer = yield from self._of_profile(source, profiles, (*behind, name))
        else:
            signer = yield from self._of_source(name, profile.get("credential_source", ""))
        return (yield from self._assume(fields, signer))

    def _of_source(self, name: str, source: str) -> Fetch:
        if source == "Environment":
            if key := self._from_environment():
                return key
            raise UpstreamRefused(f"The AWS profile '{name}' wants a key of the environment, and there is none.")
        if source == "EcsContainer" and self._has_container():
            return (yield from self._from_container())
        if source == "Ec2InstanceMetadata":
            return (yield from self._from_metadata())
        raise UpstreamRefused(f"The AWS profile '{name}' does not say with which key its role is to be assumed.")

    # -- STS ------------------------------------------------------------------------------------------------------------

    @property
    def _sts(self) -> str:
        suffix = ".cn" if self._region.startswith("cn-") else ""
        return self._environment.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{self._region}.amazonaws.com{suffix}"

    def _session(self, role: dict[str, str]) -> str:
        return role.get("RoleSessionName") or session_of(self._environment.get("AWS_ROLE_SESSION_NAME", ""))


def _is_mute(profile: Profile) -> bool:
    return not why_not(profile) and not {"aws_access_key_id", "role_arn"} & profile.keys()


def _get(url: str, **headers: str) -> UpstreamRequest:
    given = tuple((name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items())
    return UpstreamRequest("GET", url, given, b"", stream=False)
