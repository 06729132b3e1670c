"""Which credentials a user gives for an account at each broker: what the broker's own login by OAuth needs, no more.

No broker's password, PIN or TOTP secret is ever asked for: logins by anything but OAuth are forbidden since 2025
(SEBI/HO/MIRSD/MIRSD-PoD/P/CIR/2025/0000013). A day's access token comes out of that login: no user types it.
"""

from collections.abc import Mapping
from enum import StrEnum

from backend.brokers.paper import PaperBroker

VALUE_LENGTH_MAX = 400


class CredentialField(StrEnum):
    """`CLIENT_ID` is the user's number at the broker; key and secret are those of the app made at its site."""

    CLIENT_ID = "client_id"
    API_KEY = "api_key"
    API_SECRET = "api_secret"  # noqa: S105 (a name)


CREDENTIAL_FIELDS: Mapping[str, tuple[CredentialField, ...]] = {
    PaperBroker.name: (),
    # api_key, and api_secret for the checksum of POST /session/token (Kite Connect 3)
    "zerodha": (CredentialField.API_KEY, CredentialField.API_SECRET),
    # client_id and client_secret of POST /v2/login/authorization/token (Upstox 2)
    "upstox": (CredentialField.API_KEY, CredentialField.API_SECRET),
    # the consent of auth.dhan.co/app, and dhanClientId in every order (Dhan 2)
    "dhan": (CredentialField.CLIENT_ID, CredentialField.API_KEY, CredentialField.API_SECRET),
}
"""By broker: all of them are needed. Accounts can be linked at these brokers, connected here or not."""


def hint_of(field: str, value: str) -> str:
    """What may be shown of a credential, so that two can be told apart: the end of an API key, nothing of a secret.

    Four characters of twelve or more, two of eight or more: never so much that the rest could be guessed.
    """
    if field != CredentialField.API_KEY:
        return ""
    return value[-4:] if len(value) >= 12 else value[-2:] if len(value) >= 8 else ""
