"""Who is calling: access tokens, secrets and password hashes. The one module that speaks to python-jose and argon2."""

import asyncio
import hashlib
import hmac
import os
import secrets
import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from jose import JWTError, jwt
from jose.utils import base64url_decode, base64url_encode

from backend.errors import InvalidRequestError, NotAuthenticatedError, SaudaError

ALGORITHM = "HS256"
TOKEN_TYPE = "at+jwt"  # noqa: S105 (RFC 9068's name of the type)
ISSUER = "sauda"
AUDIENCE = "sauda-api"
KEY_BYTES_MIN = 32
KEY_ID_BYTES = 6
SECRET_BYTES = 32
TOKEN_BYTES_MAX = 4096
HASHES_AT_ONCE_MAX = max(1, min(2, (os.cpu_count() or 1) // 2))
"""A flood of logins leaves half of the cores to everything else."""
HASHES_WAITING_MAX = 64
ID_MAX = 2**63 - 1

_CLAIMS = frozenset({"exp", "iat", "sub", "aud", "iss", "jti", "sid"})
# python-jose asks the real clock; `exp` and `iat` are checked against the clock that was handed in.
_OPTIONS = {f"require_{claim}": True for claim in _CLAIMS - {"exp", "iat", "sid"}} | {
    "verify_exp": False,
    "verify_iat": False,
    "leeway": 0,
}


def password_hasher() -> PasswordHasher:
    """Argon2id with 19 MiB, two passes and one lane: OWASP's Password Storage Cheat Sheet; about 35 ms of one core."""
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class BusyError(SaudaError):
    """More passwords wait to be checked than this process will queue."""

    status, code, title = 503, "busy", "Service unavailable"


class Security:
    """Issues and verifies access tokens, hashes and verifies passwords (argon2id). `clock` is the real time.

    `key` signs; the tokens of `previous_key` are taken until they expire, so that a key can be changed while users
    are logged in.

    Raises:
        ValueError: a key is shorter than KEY_BYTES_MIN, or both are the same.
    """

    def __init__(
        self,
        key: str,
        access_token_minutes: int,
        clock: Callable[[], datetime],
        hasher: PasswordHasher | None = None,
        *,
        previous_key: str = "",
    ) -> None:
        _require_long(key, "SECRET_KEY")
        if previous_key:
            _require_long(previous_key, "SECRET_KEY_PREVIOUS")
        if previous_key == key:
            raise ValueError("SECRET_KEY_PREVIOUS is SECRET_KEY itself: leave it empty, or make a new SECRET_KEY")
        self._key = key
        self._keys = {key_id(each): each for each in (previous_key, key) if each}
        self._header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": key_id(key)}
        self._clock = clock
        self._hasher = hasher or password_hasher()
        self._at_once = asyncio.Semaphore(HASHES_AT_ONCE_MAX)
        self._waiting = 0
        self._nobodys_hash = self._hasher.hash(secrets.token_urlsafe(16))
        self.access_token_s = access_token_minutes * 60

    def now(self) -> datetime:
        """The real time."""
        return self._clock()

    def issue(self, user_id: int, session_id: int) -> str:
        """A signed access token of a user's login, valid for `access_token_s` seconds from now."""
        now = int(self._clock().timestamp())
        claims = {
            "sub": str(user_id),
            "sid": str(session_id),
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + self.access_token_s,
            "jti": secrets.token_urlsafe(12),
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers=self._header)

    def claims_of(self, token: str) -> tuple[int, int]:
        """The user a token was issued to, and the login.

        Raises:
            NotAuthenticatedError: it is forged, expired, malformed, too long or not of our kind.
        """
        claims = self._verified_claims(token)
        now = self._clock().timestamp()
        issued, expires = claims["iat"], claims["exp"]
        if type(issued) is not int or type(expires) is not int or issued > now + 1:
            raise _invalid()
        if expires <= now:
            raise NotAuthenticatedError(
                "The access token has expired: get a new one with POST /v1/auth/refresh, or log in again.",
                code="token_expired",
            )
        return _id(claims["sub"]), _id(claims["sid"])

    def _verified_claims(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_BYTES_MAX or not token.isascii():
            raise _invalid()
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(header.get("kid") or "")
            if key is None or header != self._header | {"kid": key_id(key)} or not _is_canonical(token):
                raise _invalid()
            claims = jwt.decode(
                token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER, options=dict(_OPTIONS)
            )
        except (JWTError, ValueError, TypeError, RecursionError, AttributeError):
            # python-jose lets errors of its parsers through for tokens it did not foresee.
            raise _invalid() from None
        if claims.keys() != _CLAIMS:
            raise _invalid()
        return claims

    def keyed_hash(self, purpose: str, text: str) -> bytes:
        """A hash of `text` that only this deployment can compute (HMAC-SHA-256, by its present key)."""
        return hmac.digest(self._key.encode(), f"{purpose}\0{text}".encode(), "sha256")

    def sign_state(self, purpose: str, account_id: int, minutes: int) -> str:
        """A word that a browser carries through another site and back: it names an account and expires."""
        named = f"{account_id}.{int(self._clock().timestamp()) + minutes * 60}.{secrets.token_hex(8)}"
        return f"{named}.{self.keyed_hash(purpose, named).hex()}"

    def account_of_state(self, purpose: str, state: str) -> int:
        """The account that `sign_state` named for this purpose.

        Raises:
            InvalidRequestError: it is forged, of another purpose, or expired.
        """
        named, _, signature = state.rpartition(".")
        genuine = (
            hmac.compare_digest(self.keyed_hash(purpose, named).hex(), signature) if signature.isascii() else False
        )
        if not genuine or int(named.split(".")[1]) <= self._clock().timestamp():
            raise InvalidRequestError(
                "This login was begun too long ago, or elsewhere: begin again.", code="state_invalid"
            )
        return int(named.split(".")[0])

    async def hash_password(self, password: str) -> str:
        """An argon2id hash with its own salt and parameters in it.

        Raises:
            BusyError: too many checks wait already.
        """
        return cast("str", await self._in_thread(self._hasher.hash, normalized(password)))

    async def verify_password(self, password_hash: str | None, password: str) -> bool:
        """Whether the password fits. Takes the same time where there is no such user (`password_hash` None).

        Raises:
            BusyError: too many checks wait already.
        """
        fits = await self._in_thread(self._verify, password_hash or self._nobodys_hash, normalized(password))
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


def key_id(key: str) -> str:
    """The name of a key in the tokens it signs: the beginning of its SHA-256, which does not tell the key."""
    return hashlib.sha256(b"sauda key id\0" + key.encode()).hexdigest()[: 2 * KEY_ID_BYTES]


def new_secret() -> str:
    """256 random bits as text, for refresh tokens, links and keys: to be given away once and kept as `digest`."""
    return secrets.token_urlsafe(SECRET_BYTES)


def digest(secret: str) -> bytes:
    """What is kept of a secret (SHA-256). It needs no salt and no slowness: nobody guesses 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()


def normalized(password: str) -> str:
    """The password as it is counted, checked and hashed (NFKC): the same however a keyboard composes its letters."""
    return unicodedata.normalize("NFKC", password)


def _require_long(key: str, name: str) -> None:
    if len(key.encode()) < KEY_BYTES_MIN:
        raise ValueError(f"the token key needs at least {KEY_BYTES_MIN} bytes: set {name}")


def _is_canonical(token: str) -> bool:
    """Whether each part is the one base64url text of its bytes: a changed spare bit must not pass as the same token."""
    return all(base64url_encode(base64url_decode(part.encode())) == part.encode() for part in token.split("."))


def _id(text: object) -> int:
    if not (isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 19):
        raise _invalid()
    if not 0 < int(text) <= ID_MAX:
        raise _invalid()
    return int(text)


def _invalid() -> NotAuthenticatedError:
    return NotAuthenticatedError("The access token is not valid: log in again.", code="token_invalid")
