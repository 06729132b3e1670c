"""API keys on the wire."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints

from backend.api.deps import KeyScope
from backend.api.schemas.common import Body, Flag, Line, Moment, Reply
from backend.models import ApiKey
from backend.services.api_key_service import DAYS_MAX, NETWORKS_MAX, KeyWish

Network = Annotated[str, StringConstraints(max_length=43, pattern=r"^[0-9A-Fa-f:.]{2,39}(/[0-9]{1,3})?$")]


class ApiKeyBody(Body):
    """`networks` (CIDR) are the addresses it works from, any where empty; with `paper_only` it moves no real money."""

    name: Annotated[Line, Field(min_length=1, max_length=60)]
    scopes: Annotated[list[KeyScope], Field(min_length=1, max_length=len(KeyScope))]
    paper_only: Flag = False
    networks: Annotated[list[Network], Field(max_length=NETWORKS_MAX)] = []
    expires_in_days: Annotated[int, Field(strict=True, ge=1, le=DAYS_MAX)] = 90

    def wish(self) -> KeyWish:
        scopes = frozenset(scope.value for scope in self.scopes)
        return KeyWish(self.name, scopes, self.paper_only, tuple(self.networks), self.expires_in_days)


class ApiKeyView(Reply):
    """`prefix` is the key's visible beginning; `last_used_at` is exact to a minute."""

    id: int
    name: str
    prefix: str
    scopes: list[KeyScope]
    paper_only: bool
    networks: list[str]
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None
    last_used_ip: str | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        return cls(
            id=key.id,
            name=key.name,
            prefix=key.prefix,
            scopes=[KeyScope(scope) for scope in key.scopes],
            paper_only=key.paper_only,
            networks=key.networks,
            created_at=key.created_at,
            expires_at=key.expires_at,
            last_used_at=key.last_used_at,
            last_used_ip=key.last_used_ip,
        )


class NewApiKeyReply(Reply):
    """`key` is shown this once: send it as `Authorization: Bearer`."""

    key: str
    api_key: ApiKeyView


class ApiKeysReply(Reply):
    """Those that can be used, the newest first."""

    api_keys: list[ApiKeyView]
