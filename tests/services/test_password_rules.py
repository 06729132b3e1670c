"""Passwords that are tried first are refused, and nobody is told how to compose theirs."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.password_rules import (
    LENGTH_MAX,
    LENGTH_MIN,
    basis,
    common_passwords,
    unit,
    weakness,
    words_of,
)

EMAIL = "asha.sharma@example.com"


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "नमस्ते दुनिया आज सोमवार",
        "a quiet river 4 stones",
        "asha likes green mangoes",
        "sauda keeps my money well",
        "x" * 7 + "Quite another thing",
    ],
)
def test_what_is_taken(password: str) -> None:
    assert weakness(password, EMAIL) is None


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "15 characters"),
        ("fourteen chars", "15 characters"),
        ("x" * 129, "128 characters"),
        ("passwordpassword", "tried first"),
        ("PasswordPassword", "tried first"),
        ("Password 123456789!", "tried first"),
        ("P@ssw0rd1234567890", "tried first"),
        ("iloveyouiloveyouilove", "tried first"),
        ("123456789012345678", "tried first"),
        ("2026-11-23 10:15:00", "tried first"),
        ("aaaaaaaaaaaaaaaaaa", "tried first"),
        ("xk3xk3xk3xk3xk3xk3", "tried first"),
        ("abcdefghijklmnopqr", "tried first"),
        ("zyxwvutsrqponmlkji", "tried first"),
        ("qwertyuiopasdfghjkl", "tried first"),
        ("1qaz2wsx3edc4rfv5tgb", "tried first"),
        ("basketball99basketball99", "tried first"),
        ("saudasaudasauda123", "our name"),
        ("Sauda-asha.sharma-2026", "e-mail address"),
        ("sharma asha 20262026", "e-mail address"),
        ("asha.sharma password 1", "e-mail address"),
    ],
)
def test_what_is_refused_and_why(password: str, why: str) -> None:
    reason = weakness(password, EMAIL)
    assert reason is not None
    assert why in reason


def test_a_second_factor_allows_a_shorter_one_that_is_not_common() -> None:
    assert weakness("gr8 Rivr", EMAIL, second_factor=True) is None
    assert weakness("gr8 Riv", EMAIL, second_factor=True) is not None
    for password in ("password", "iloveyou", "sunshine", "Football1"):
        assert weakness(password, EMAIL, second_factor=True) is not None


def test_no_common_password_is_taken_at_any_length_that_is() -> None:
    long_enough = [word for word in common_passwords() if len(word) >= 8]
    assert len(long_enough) > 20_000
    assert not [word for word in long_enough if weakness(word.upper(), EMAIL, second_factor=True) is None]


def test_the_same_letters_count_the_same_however_they_are_composed() -> None:
    composed, apart = "é" * 7, "e\u0301" * 7
    assert weakness(apart + "x" * 7, EMAIL) == weakness(composed + "x" * 7, EMAIL)
    assert "15 characters" in (weakness(apart, EMAIL) or "")


@given(st.binary(min_size=12, max_size=90))
def test_random_text_of_any_length_is_judged(raw: bytes) -> None:
    text = raw.decode("latin-1")
    reason = weakness(text, EMAIL)
    assert reason is None or reason.endswith((".", "mind."))


def test_what_we_make_ourselves_is_taken() -> None:
    for _ in range(500):
        assert weakness(secrets.token_urlsafe(12), EMAIL) is None


def test_its_parts() -> None:
    assert basis("--12abc34xyz!!") == "abc34xyz"
    assert basis("2026!") == ""
    assert unit("abcabcab") == "abc"
    assert unit("abcd") == "abcd"
    assert words_of(EMAIL.upper()) == ["asha.sharma", "example", "sharma", "sauda", "asha"]
    assert LENGTH_MIN == 15
    assert LENGTH_MAX == 128
