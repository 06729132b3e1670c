"""The live gate on the wire: switches, and compliance records as administrators keep them."""

from datetime import date
from typing import Annotated

from pydantic import Field

from backend.api.schemas.common import Body, Day, Id, Line, MarketReply, Moment, PageQuery, Reply
from backend.models import ComplianceKind, ComplianceRecord
from backend.services.compliance_service import Approval
from backend.services.live_service import LiveFacts, SwitchName, switches_of


class SwitchView(Reply):
    name: SwitchName
    on: bool
    detail: str
    next_step: str | None


class LiveReply(MarketReply):
    """`live` is whether all switches are on; the gate asks for them again before each real order."""

    live: bool
    confirmed_at: Moment | None
    switches: list[SwitchView]

    @classmethod
    def of(cls, facts: LiveFacts) -> "LiveReply":
        switches = switches_of(facts)
        return cls(
            environment=facts.environment,
            live=all(switch.on for switch in switches),
            confirmed_at=facts.confirmed_at,
            switches=[SwitchView(name=s.name, on=s.on, detail=s.detail, next_step=s.next_step) for s in switches],
        )


class ComplianceBody(Body):
    """`algo_id` is what the exchange or broker has given for the orders, `egress_ip` the static address that the broker
    has whitelisted, `approval` the reference of its approval. Days are India's, the last one included.
    """

    user_id: Id
    kind: ComplianceKind
    broker: Annotated[Line, Field(min_length=1, max_length=20)]
    algo_id: Annotated[Line, Field(min_length=1, max_length=40)]
    egress_ip: Annotated[Line, Field(min_length=2, max_length=45)]
    approval: Annotated[Line, Field(min_length=3, max_length=200)]
    approved_on: Day
    valid_from: Day
    valid_until: Day

    def stated(self) -> Approval:
        return Approval(**{name: getattr(self, name) for name in type(self).model_fields})


class RevokeComplianceBody(Body):
    reason: Annotated[Line, Field(min_length=3, max_length=300)]


class ComplianceQuery(PageQuery):
    """`standing=true`: those alone that count today."""

    user_id: Annotated[int, Field(ge=1)] | None = None
    standing: bool = False


class ComplianceView(Reply):
    id: int
    user_id: int
    kind: ComplianceKind
    broker: str
    algo_id: str
    egress_ip: str
    approval: str
    approved_on: date
    valid_from: date
    valid_until: date
    recorded_by: int
    recorded_at: Moment
    revoked_at: Moment | None
    revoked_by: int | None
    revoke_reason: str | None

    @classmethod
    def of(cls, row: ComplianceRecord) -> "ComplianceView":
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class ComplianceReply(Reply):
    records: list[ComplianceView]
    next_cursor: str | None
