"""Who is calling: access tokens and password hashes. The one module that speaks to python-jose and argon2."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from jose import JWTError, jwt
from jose.utils import base64url_decode, base64url_encode

from backend.errors import NotAuthenticatedError, SaudaError

ALGORITHM = "HS256"
TOKEN_TYPE = "at+jwt"  # noqa: S105 (RFC 9068's name of the type)
ISSUER = "sauda"
AUDIENCE = "sauda-api"
KEY_BYTES_MIN = 32
TOKEN_BYTES_MAX = 4096
HASHES_AT_ONCE_MAX = 2
HASHES_WAITING_MAX = 64
USER_ID_MAX = 2**63 - 1

_HEADER = {"alg": ALGORITHM, "typ": TOKEN_TYPE}
_CLAIMS = frozenset({"exp", "iat", "sub", "aud", "iss", "jti"})
# python-jose asks the real clock; `exp` and `iat` are checked against the clock that was handed in.
_OPTIONS = {f"require_{claim}": True for claim in _CLAIMS - {"exp", "iat"}} | {
    "verify_exp": False,
    "verify_iat": False,
    "leeway": 0,
}


class BusyError(SaudaError):
    """More passwords wait to be checked than this process will queue."""

    status, code, title = 503, "busy", "Service unavailable"


class Security:
    """Issues and verifies access tokens, hashes and verifies passwords (argon2id). `clock` is the real time.

    Raises:
        ValueError: the key is shorter than KEY_BYTES_MIN.
    """

    def __init__(
        self,
        key: str,
        access_token_minutes: int,
        clock: Callable[[], datetime],
        hasher: PasswordHasher | None = None,
    ) -> None:
        if len(key.encode()) < KEY_BYTES_MIN:
            raise ValueError(f"the token key needs at least {KEY_BYTES_MIN} bytes: set SECRET_KEY")
        self._key = key
        self._clock = clock
        self._hasher = hasher or PasswordHasher()
        self._at_once = asyncio.Semaphore(HASHES_AT_ONCE_MAX)
        self._waiting = 0
        self._nobodys_hash = self._hasher.hash(secrets.token_urlsafe(16))
        self.access_token_s = access_token_minutes * 60

    def issue(self, user_id: int) -> str:
        """A signed access token for a user, valid for `access_token_s` seconds from now."""
        now = int(self._clock().timestamp())
        claims = {
            "sub": str(user_id),
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + self.access_token_s,
            "jti": secrets.token_urlsafe(12),
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers=_HEADER)

    def user_id_of(self, token: str) -> int:
        """The user a token was issued to.

        Raises:
            NotAuthenticatedError: it is forged, expired, malformed, too long or not of our kind.
        """
        claims = self._verified_claims(token)
        now = self._clock().timestamp()
        issued, expires = claims["iat"], claims["exp"]
        if type(issued) is not int or type(expires) is not int or issued > now + 1:
            raise _invalid()
        if expires <= now:
            raise NotAuthenticatedError("The access token has expired: log in again.", code="token_expired")
        subject = claims["sub"]
        if not (subject.isascii() and subject.isdecimal() and len(subject) <= 19 and 0 < int(subject) <= USER_ID_MAX):
            raise _invalid()
        return int(subject)

    def _verified_claims(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_BYTES_MAX or not token.isascii():
            raise _invalid()
        try:
            if jwt.get_unverified_header(token) != _HEADER or not _is_canonical(token):
                raise _invalid()
            claims = jwt.decode(
                token, self._key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER, options=dict(_OPTIONS)
            )
        except (JWTError, ValueError, TypeError, RecursionError, AttributeError):
            # python-jose lets errors of its parsers through for tokens it did not foresee.
            raise _invalid() from None
        if claims.keys() != _CLAIMS:
            raise _invalid()
        return claims

    async def hash_password(self, password: str) -> str:
        """An argon2id hash with its own salt and parameters in it."""
        return cast("str", await self._in_thread(self._hasher.hash, password))

    async def verify_password(self, password_hash: str | None, password: str) -> bool:
        """Whether the password fits. Takes the same time where there is no such user (`password_hash` None).

        Raises:
            BusyError: too many checks wait already.
        """
        fits = await self._in_thread(self._verify, password_hash or self._nobodys_hash, password)
        return bool(fits) and password_hash is not None

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (Argon2Error, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[..., object], *args: str) -> object:
        if self._waiting >= HASHES_WAITING_MAX:
            raise BusyError("Too many logins at once: try again in a few seconds.")
        self._waiting += 1
        try:
            async with self._at_once:
                return await asyncio.to_thread(work, *args)
        finally:
            self._waiting -= 1


def _is_canonical(token: str) -> bool:
    """Whether each part is the one base64url text of its bytes: a changed spare bit must not pass as the same token."""
    return all(base64url_encode(base64url_decode(part.encode())) == part.encode() for part in token.split("."))


def _invalid() -> NotAuthenticatedError:
    return NotAuthenticatedError("The access token is not valid: log in again.", code="token_invalid")
