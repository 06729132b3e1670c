"""What all tables share: naming of constraints, column types for money, instants and enums."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import BigInteger, DateTime, Enum, Identity, MetaData, Numeric, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column


class Base(DeclarativeBase):
    """Declarative base. Relationships are not mapped: every join is written where it is needed."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
    }


BigId = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
"""A surrogate key handed out by the database."""

Price = Annotated[Decimal, mapped_column(Numeric(18, 4))]
"""Rupees per share."""

Money = Annotated[Decimal, mapped_column(Numeric)]
"""Rupees, exact: charges keep every digit and are rounded on the contract note only."""

CreatedAt = Annotated[datetime, mapped_column(server_default=func.clock_timestamp())]
"""When the database saw the row first (real time, also where the market's clock is simulated)."""


def enum_type(enum: type[StrEnum], name: str | None = None, *, grows: bool = False) -> Enum:
    """A VARCHAR with a CHECK of the enum's lower-case values: readable in psql, no ALTER TYPE to add one.

    `name` tells two columns of one table and one enum apart. `grows`: no CHECK, for lists that get longer often.
    """
    return Enum(
        enum,
        native_enum=False,
        create_constraint=not grows,
        length=40 if grows else 24,
        name=name or enum.__name__.lower(),
        values_callable=lambda members: [member.value for member in members],
    )
