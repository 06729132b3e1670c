"""Changing broker accounts and giving their credentials, on the wire."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from backend.api.schemas.common import Body, Line, Moment, Reply
from backend.brokers.credential_fields import VALUE_LENGTH_MAX, CredentialField
from backend.services.broker_credential_service import FieldState

Secret = Annotated[SecretStr, Field(min_length=1, max_length=VALUE_LENGTH_MAX)]


class ChangeAccountBody(Body):
    """What is left out stays. The primary account executes the auto-trades until another is made primary."""

    label: Annotated[Line, Field(min_length=1, max_length=60)] | None = None
    enabled: Annotated[bool, Field(strict=True)] | None = None
    primary: Literal[True] | None = None


class CredentialsBody(Body):
    """What the account's broker needs, all of it and nothing else; GET shows which fields those are."""

    client_id: Secret | None = None
    api_key: Secret | None = None
    api_secret: Secret | None = None

    def values(self) -> dict[CredentialField, str]:
        given = {field: getattr(self, field.value) for field in CredentialField}
        return {field: secret.get_secret_value() for field, secret in given.items() if secret is not None}


class CredentialFieldView(Reply):
    """`hint` is the end of an API key, so that two can be told apart; nothing of a secret is ever shown."""

    field: CredentialField
    set_at: Moment | None
    hint: str


class CredentialsReply(Reply):
    account_id: int
    broker: str
    complete: bool
    fields: list[CredentialFieldView]

    @classmethod
    def of(cls, account_id: int, broker: str, states: list[FieldState]) -> "CredentialsReply":
        return cls(
            account_id=account_id,
            broker=broker,
            complete=all(state.set_at is not None for state in states),
            fields=[CredentialFieldView(field=s.field, set_at=s.set_at, hint=s.hint) for s in states],
        )
