"""brokers: logins at real brokers, their calls, and what an order with real money must bear"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0008"
down_revision: str | Sequence[str] | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ORIGINS = ("engine", "manual", "external")
OWN_USER = "user_id = sauda_user_id()"
OWN_ACCOUNT = "EXISTS (SELECT FROM broker_accounts a WHERE a.id = account_id AND a.user_id = sauda_user_id())"
POLICIES = {"broker_sessions": OWN_USER, "broker_calls": OWN_ACCOUNT}
GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON broker_sessions, broker_calls TO sauda_operator, sauda_trader",
    "GRANT SELECT, INSERT, UPDATE ON broker_sessions TO sauda_app",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO sauda_operator, sauda_trader",
)


def _origins(values: Sequence[str]) -> None:
    op.drop_constraint(op.f("ck_orders_orderorigin"), "orders", type_="check")
    listed = ", ".join(f"'{value}'" for value in values)
    op.create_check_constraint(op.f("ck_orders_orderorigin"), "orders", f"origin IN ({listed})")


def upgrade() -> None:
    op.create_table(
        "broker_sessions",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("client_id", sa.String(length=40), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reconciled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id", "user_id"],
            ["broker_accounts.id", "broker_accounts.user_id"],
            name=op.f("fk_broker_sessions_account_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_broker_sessions")),
    )
    op.create_table(
        "broker_calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_broker_calls_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_broker_calls")),
        # What was counted before a crash may be lost with it: the brokers' own counters still stand.
        prefixes=["UNLOGGED"],
    )
    op.create_index("ix_broker_calls_account_id_kind_at", "broker_calls", ["account_id", "kind", "at"])
    op.add_column("broker_accounts", sa.Column("nudged_on", sa.Date(), nullable=True))
    op.add_column("orders", sa.Column("trigger_price", sa.Numeric(precision=18, scale=4), nullable=True))
    op.add_column("orders", sa.Column("algo_id", sa.String(length=40), nullable=True))
    op.add_column("orders", sa.Column("egress_ip", sa.String(length=45), nullable=True))
    _origins((*ORIGINS, "guard"))
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


def downgrade() -> None:
    op.execute("DELETE FROM orders WHERE origin = 'guard'")
    _origins(ORIGINS)
    for column in ("egress_ip", "algo_id", "trigger_price"):
        op.drop_column("orders", column)
    op.drop_column("broker_accounts", "nudged_on")
    op.drop_table("broker_calls")
    op.drop_table("broker_sessions")
