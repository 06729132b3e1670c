"""Tokens: only what this deployment signed, whole and in time, is let in. Passwords: hashed, bounded, even-handed."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from argon2 import PasswordHasher
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from jose import jwt

from backend.errors import NotAuthenticatedError
from backend.security import HASHES_AT_ONCE_MAX, HASHES_WAITING_MAX, BusyError, Security, digest, key_id, new_secret

KEY = "k" * 32
OLD_KEY = "o" * 32
NOW = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


HEADER = {"alg": "HS256", "typ": "at+jwt", "kid": key_id(KEY)}


def security(now: datetime = NOW, key: str = KEY, previous: str = "") -> Security:
    return Security(key, 10, lambda: now, HASHER, previous_key=previous)


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token, changed; a value of None takes the claim out."""
    now = int(NOW.timestamp())
    good = {"sub": "7", "sid": "9", "iss": "sauda", "aud": "sauda-api", "iat": now, "exp": now + 600, "jti": "j"}
    return {name: value for name, value in (good | changes).items() if value is not None}


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload: Any, header: dict[str, Any] | None = None, key: str = KEY, digest: str = "sha256") -> str:
    """A token signed by hand, so that no library's care stands in the way of a bad one."""
    head = HEADER if header is None else header
    text = f"{part(head)}.{part(payload)}"
    return f"{text}.{part(hmac.new(key.encode(), text.encode(), digest).digest())}"


def rsa_signed() -> str:
    key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return jwt.encode(claims(), key.decode(), algorithm="RS256", headers={"typ": "at+jwt", "kid": key_id(KEY)})


def spare_bits_changed() -> str:
    """The last character of a 32-byte signature carries two spare bits: the next one decodes to the same bytes."""
    token = signed(claims())
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


HOSTILE: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "no token at all": lambda: "hello",
    "two parts": lambda: ".".join(signed(claims()).split(".")[:2]),
    "four parts": lambda: signed(claims()) + ".x",
    "only dots": lambda: "..",
    "not ascii": lambda: "é" + signed(claims()),
    "alg none": lambda: f"{part(HEADER | {'alg': 'none'})}.{part(claims())}.",
    "alg None in odd case": lambda: signed(claims(), HEADER | {"alg": "nOnE"}),
    "alg HS512": lambda: signed(claims(), HEADER | {"alg": "HS512"}, digest="sha512"),
    "alg RS256": rsa_signed,
    "typ of an ordinary JWT": lambda: signed(claims(), HEADER | {"typ": "JWT"}),
    "no typ": lambda: signed(claims(), {"alg": "HS256", "kid": key_id(KEY)}),
    "a key in the header": lambda: signed(claims(), HEADER | {"jwk": {"k": "x"}}),
    "a critical extension": lambda: signed(claims(), HEADER | {"crit": ["x"]}),
    "no kid": lambda: signed(claims(), {"alg": "HS256", "typ": "at+jwt"}),
    "the kid of no key": lambda: signed(claims(), HEADER | {"kid": key_id("x" * 32)}),
    "the kid of a key that is no longer taken": lambda: signed(
        claims(), HEADER | {"kid": key_id(OLD_KEY)}, key=OLD_KEY
    ),
    "kid null": lambda: signed(claims(), HEADER | {"kid": None}),
    "kid a list": lambda: signed(claims(), HEADER | {"kid": [key_id(KEY)]}),
    "kid a path": lambda: signed(claims(), HEADER | {"kid": "../../dev/null"}, key=""),
    "the key itself as kid": lambda: signed(claims(), HEADER | {"kid": KEY}),
    "a URL of keys": lambda: signed(claims(), HEADER | {"jku": "http://127.0.0.1/keys"}),
    "a nested token": lambda: signed(claims(), HEADER | {"cty": "JWT"}),
    "a header that is a list": lambda: ".".join([part([HEADER]), *signed(claims()).split(".")[1:]]),
    "signed with the empty key": lambda: signed(claims(), key=""),
    "signed with another key": lambda: signed(claims(), key="K" * 32),
    "no signature": lambda: ".".join([*signed(claims()).split(".")[:2], ""]),
    "another payload under the signature": lambda: ".".join(
        [signed(claims()).split(".")[0], part(claims(sub="8")), signed(claims()).split(".")[2]]
    ),
    "spare bits of the signature changed": spare_bits_changed,
    "padding added": lambda: signed(claims()) + "=",
    "a newline at the end": lambda: signed(claims()) + "\n",
    "expired": lambda: signed(claims(exp=int(NOW.timestamp()))),
    "no exp": lambda: signed(claims(exp=None)),
    "exp as text": lambda: signed(claims(exp="9999999999")),
    "exp as a float": lambda: signed(claims(exp=9999999999.5)),
    "exp true": lambda: signed(claims(exp=True)),
    "exp NaN": lambda: signed(claims(exp=float("nan"))),
    "exp infinite": lambda: signed(claims(exp=float("inf"))),
    "no iat": lambda: signed(claims(iat=None)),
    "issued in the future": lambda: signed(claims(iat=int(NOW.timestamp()) + 60)),
    "no sub": lambda: signed(claims(sub=None)),
    "sub as a number": lambda: signed(claims(sub=7)),
    "sub of another alphabet": lambda: signed(claims(sub="٧")),
    "sub zero": lambda: signed(claims(sub="0")),
    "sub negative": lambda: signed(claims(sub="-7")),
    "sub beyond the database": lambda: signed(claims(sub=str(2**63))),
    "sub with a space": lambda: signed(claims(sub=" 7")),
    "no sid": lambda: signed(claims(sid=None)),
    "sid zero": lambda: signed(claims(sid="0")),
    "sid as a number": lambda: signed(claims(sid=9)),
    "sid beyond the database": lambda: signed(claims(sid=str(2**63))),
    "another audience": lambda: signed(claims(aud="other")),
    "many audiences": lambda: signed(claims(aud=["other", "else"])),
    "no aud": lambda: signed(claims(aud=None)),
    "another issuer": lambda: signed(claims(iss="other")),
    "no iss": lambda: signed(claims(iss=None)),
    "no jti": lambda: signed(claims(jti=None)),
    "an extra claim": lambda: signed(claims(role="admin")),
    "a list as payload": lambda: signed([1, 2]),
    "null as payload": lambda: signed(None),
    "no JSON as payload": lambda: signed(b"\xff\xfe"),
    "deep payload": lambda: signed(b"[" * 2000),
    "not yet valid": lambda: signed(claims(nbf=int(NOW.timestamp()) + 60)),
    "too long": lambda: signed(claims(jti="j" * 4096)),
}


@pytest.mark.parametrize("token", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_token_is_not_let_in(token: Callable[[], str]) -> None:
    with pytest.raises(NotAuthenticatedError):
        security().claims_of(token())


def test_the_hand_signed_token_is_good_but_for_what_each_case_changes() -> None:
    assert security().claims_of(signed(claims())) == (7, 9)


def test_a_token_holds_until_it_expires() -> None:
    token = security().issue(42, 7)
    assert security(NOW + timedelta(minutes=10) - SECOND).claims_of(token) == (42, 7)
    with pytest.raises(NotAuthenticatedError, match="expired"):
        security(NOW + timedelta(minutes=10)).claims_of(token)


def test_a_key_can_be_changed_while_its_tokens_are_about() -> None:
    old = security(key=OLD_KEY).issue(42, 7)
    changed = security(previous=OLD_KEY)
    assert changed.claims_of(old) == (42, 7)
    new = changed.issue(42, 7)
    assert security().claims_of(new) == (42, 7)
    with pytest.raises(NotAuthenticatedError):
        security().claims_of(old)
    with pytest.raises(NotAuthenticatedError):
        security(key=OLD_KEY).claims_of(new)


def test_each_of_two_keys_verifies_its_own_kid_alone() -> None:
    crossed = signed(claims(), HEADER | {"kid": key_id(KEY)}, key=OLD_KEY)
    with pytest.raises(NotAuthenticatedError):
        security(previous=OLD_KEY).claims_of(crossed)


def test_a_kid_does_not_tell_the_key() -> None:
    assert key_id(KEY) not in {KEY[:12], hashlib.sha256(KEY.encode()).hexdigest()[:12]}
    assert len(key_id(KEY)) == 12


def test_two_tokens_of_one_second_differ() -> None:
    assert security().issue(1, 1) != security().issue(1, 1)


@given(st.text(max_size=300))
def test_no_text_breaks_the_check(token: str) -> None:
    with pytest.raises(NotAuthenticatedError):
        security_for_any.claims_of(token)


@given(st.binary(max_size=80), st.binary(max_size=120))
def test_no_signed_bytes_break_the_check(header: bytes, payload: bytes) -> None:
    text = f"{part(header)}.{part(payload)}"
    signature = part(hmac.new(KEY.encode(), text.encode(), hashlib.sha256).digest())
    with pytest.raises(NotAuthenticatedError):
        security_for_any.claims_of(f"{text}.{signature}")


security_for_any = security()


@pytest.mark.parametrize("key", ["", "short", "k" * 31])
def test_a_short_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        security(key=key)


def test_a_short_or_repeated_previous_key_is_refused() -> None:
    with pytest.raises(ValueError, match="SECRET_KEY_PREVIOUS"):
        security(previous="short")
    with pytest.raises(ValueError, match="SECRET_KEY itself"):
        security(previous=KEY)


def test_secrets_have_256_bits_and_are_kept_as_hashes() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(len(base64.urlsafe_b64decode(secret + "=")) == 32 for secret in made)
    assert digest("a") == hashlib.sha256(b"a").digest()


def test_a_keyed_hash_needs_the_key() -> None:
    assert security().keyed_hash("p", "a") == security().keyed_hash("p", "a")
    others = [security(key=OLD_KEY).keyed_hash("p", "a"), security().keyed_hash("q", "a"), digest("a")]
    assert security().keyed_hash("p", "a") not in others


async def test_a_password_counts_the_same_however_its_letters_are_composed() -> None:
    own = security()
    hashed = await own.hash_password("caf\u00e9 au lait")
    assert await own.verify_password(hashed, "cafe\u0301 au lait")
    assert not await own.verify_password(hashed, "cafe au lait")


async def test_a_password_fits_only_its_own_hash() -> None:
    own = security()
    hashed = await own.hash_password("correct horse battery")
    assert hashed.startswith("$argon2id$")
    assert await own.verify_password(hashed, "correct horse battery")
    assert not await own.verify_password(hashed, "correct horse batterz")
    assert not await own.verify_password("!", "!")


async def test_an_unknown_user_costs_a_check_too() -> None:
    calls: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002
            calls.append(str(hash))
            return super().verify(hash, password)

    own = Security(KEY, 10, lambda: NOW, Counting(time_cost=1, memory_cost=8, parallelism=1))
    assert not await own.verify_password(None, "anything")
    assert len(calls) == 1
    assert calls[0].startswith("$argon2id$")


async def test_at_most_two_hashes_run_at_once_and_the_queue_is_bounded() -> None:
    running = 0
    most = 0

    class Watching(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return super().verify(hash, password)
            finally:
                running -= 1

    own = Security(KEY, 10, lambda: NOW, Watching(time_cost=2, memory_cost=1024, parallelism=1))
    checks = [own.verify_password(None, "x") for _ in range(HASHES_WAITING_MAX + 5)]
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert sum(isinstance(r, BusyError) for r in results) == 5
    assert most == HASHES_AT_ONCE_MAX <= 2
