"""paper: what a broker keeps of positions and changed orders, and the sandbox's keys, logins and triggers"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0009"
down_revision: str | Sequence[str] | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

OWN_USER = "user_id = sauda_user_id()"
OWN_ACCOUNT = "EXISTS (SELECT FROM broker_accounts a WHERE a.id = account_id AND a.user_id = sauda_user_id())"
POLICIES = {
    "paper_changes": OWN_ACCOUNT,
    "paper_positions": OWN_ACCOUNT,
    "sandbox_apps": OWN_USER,
    "sandbox_gtts": OWN_USER,
    "sandbox_sessions": OWN_USER,
}
TABLES = ", ".join(POLICIES)
GRANTS = (
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO sauda_operator, sauda_trader",
    f"GRANT SELECT ON {TABLES} TO sauda_app",
    # A user makes and ends keys; what trades with them is written by the sandbox alone.
    "GRANT INSERT, UPDATE, DELETE ON sandbox_apps TO sauda_app",
    "GRANT DELETE ON sandbox_sessions TO sauda_app",
    "REVOKE UPDATE, DELETE, TRUNCATE ON paper_changes FROM sauda_app, sauda_identity, sauda_operator, sauda_trader",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO sauda_operator, sauda_trader",
)
PAST_POSITIONS = """
INSERT INTO paper_positions
SELECT t.account_id, t.trade_date, o.symbol, o.exchange, o.product,
       coalesce(sum(t.quantity) FILTER (WHERE o.side = 'buy'), 0),
       coalesce(sum(t.quantity * t.price) FILTER (WHERE o.side = 'buy'), 0),
       coalesce(sum(t.quantity) FILTER (WHERE o.side = 'sell'), 0),
       coalesce(sum(t.quantity * t.price) FILTER (WHERE o.side = 'sell'), 0)
  FROM paper_trades t JOIN paper_orders o ON o.id = t.order_id
 GROUP BY t.account_id, t.trade_date, o.symbol, o.exchange, o.product
"""
KINDS = {
    "order_type": ("limit", "sl", "market"),
    "validity": ("day", "ioc"),
    "product": ("cnc", "mis"),
    "gttstatus": ("active", "triggered", "expired", "cancelled", "rejected", "deleted"),
}


def _enum(name: str, values: Sequence[str]) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=24)


def _price(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Numeric(precision=18, scale=4), nullable=nullable)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _created_at() -> sa.Column[object]:
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
    )


def _of_account(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["account_id", "user_id"],
        ["broker_accounts.id", "broker_accounts.user_id"],
        name=op.f(f"fk_{table}_account_id_user_id"),
    )


def upgrade() -> None:
    _extend_orders()
    _create_paper()
    _create_sandbox()
    for grant in GRANTS:
        op.execute(grant)
    for table, own in POLICIES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own ON {table} TO sauda_app USING ({own}) WITH CHECK ({own})")
        op.execute(
            f"CREATE POLICY everybody ON {table} TO sauda_identity, sauda_operator, sauda_trader "
            "USING (true) WITH CHECK (true)"
        )


def _extend_orders() -> None:
    validity = sa.Column("validity", _enum("validity", KINDS["validity"]), server_default="day", nullable=False)
    op.add_column("paper_orders", validity)
    for column, kind, default in (
        ("closing_quantity", sa.Integer(), "0"),
        ("leverage", sa.Numeric(), "1"),
        ("modifications", sa.Integer(), "0"),
        ("squares_off", sa.Boolean(), "false"),
        ("broker_like", sa.Boolean(), "false"),
    ):
        op.add_column("paper_orders", sa.Column(column, kind, server_default=sa.text(default), nullable=False))
    op.add_column("paper_orders", _instant("arrives_at", nullable=True))
    op.add_column("paper_orders", _instant("ended_at", nullable=True))
    # Sells were of shares that the account had.
    op.execute("UPDATE paper_orders SET closing_quantity = quantity WHERE side = 'sell'")


def _create_paper() -> None:
    op.create_table(
        "paper_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("order_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("order_type", _enum("ordertype", KINDS["order_type"]), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        _price("limit_price"),
        _price("trigger_price", nullable=True),
        sa.Column("validity", _enum("validity", KINDS["validity"]), nullable=False),
        sa.Column("filled_quantity", sa.Integer(), nullable=False),
        _instant("at"),
        _created_at(),
        sa.ForeignKeyConstraint(["order_id"], ["paper_orders.id"], name=op.f("fk_paper_changes_order_id")),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_paper_changes_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_paper_changes")),
    )
    op.create_index(op.f("ix_paper_changes_order_id"), "paper_changes", ["order_id"])
    op.create_table(
        "paper_positions",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column("exchange", sa.String(length=3), nullable=False),
        sa.Column("product", _enum("product", KINDS["product"]), nullable=False),
        sa.Column("buy_quantity", sa.Integer(), nullable=False),
        sa.Column("buy_value", sa.Numeric(), nullable=False),
        sa.Column("sell_quantity", sa.Integer(), nullable=False),
        sa.Column("sell_value", sa.Numeric(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_paper_positions_account_id")),
        sa.PrimaryKeyConstraint("account_id", "day", "symbol", "exchange", "product", name=op.f("pk_paper_positions")),
    )
    op.create_index(
        "ix_paper_positions_open_intraday",
        "paper_positions",
        ["account_id"],
        postgresql_where=sa.text("product = 'mis' AND buy_quantity <> sell_quantity"),
    )
    op.execute(PAST_POSITIONS)


def _create_sandbox() -> None:
    op.create_table(
        "sandbox_apps",
        sa.Column("api_key", sa.String(length=32), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("redirect_url", sa.String(length=400), nullable=False),
        sa.Column("postback_url", sa.String(length=400), nullable=False),
        _created_at(),
        _of_account("sandbox_apps"),
        sa.PrimaryKeyConstraint("api_key", name=op.f("pk_sandbox_apps")),
        sa.UniqueConstraint("account_id", name=op.f("uq_sandbox_apps_account_id")),
    )
    op.create_table(
        "sandbox_sessions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("api_key", sa.String(length=32), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("exchanged", sa.Boolean(), nullable=False),
        _instant("ends_at"),
        _created_at(),
        _of_account("sandbox_sessions"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sandbox_sessions")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_sandbox_sessions_token_hash")),
    )
    op.create_index(op.f("ix_sandbox_sessions_api_key"), "sandbox_sessions", ["api_key"])
    op.create_table(
        "sandbox_gtts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("status", _enum("gttstatus", KINDS["gttstatus"]), nullable=False),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column("exchange", sa.String(length=3), nullable=False),
        _price("lower_trigger", nullable=True),
        _price("upper_trigger", nullable=True),
        sa.Column("two_legs", sa.Boolean(), nullable=False),
        _price("last_price"),
        sa.Column("orders", postgresql.JSONB(), nullable=False),
        _instant("updated_at"),
        _instant("expires_at"),
        _instant("placed_at"),
        _created_at(),
        _of_account("sandbox_gtts"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sandbox_gtts")),
    )
    op.create_index(
        "ix_sandbox_gtts_active", "sandbox_gtts", ["account_id"], postgresql_where=sa.text("status = 'active'")
    )


def downgrade() -> None:
    for table in ("sandbox_gtts", "sandbox_sessions", "sandbox_apps", "paper_positions", "paper_changes"):
        op.drop_table(table)
    for column in (
        *(
            "ended_at",
            "arrives_at",
            "broker_like",
            "squares_off",
            "modifications",
            "leverage",
            "closing_quantity",
            "validity",
        ),
    ):
        op.drop_column("paper_orders", column)
