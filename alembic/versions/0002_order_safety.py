"""order safety: ledger, trading states, idempotency keys, live permissions, and a role for the application"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

STATES = "'pending', 'submitted', 'accepted', 'partially_filled', 'filled', 'rejected', 'cancel_pending', 'cancelled', 'expired', 'unknown'"
KINDS = "'submitted', 'accepted', 'partially_filled', 'filled', 'rejected', 'cancel_requested', 'cancelled', 'expired', 'lost', 'abandoned'"
EXITS = "'target', 'stop', 'horizon', 'opposite_signal', 'square_off'"
# (table, constraint, column, its values before, what is added)
WIDENED = (
    ("orders", "orderstate", "state", STATES, "'denied'"),
    ("order_events", "from_state", "from_state", STATES, "'denied'"),
    ("order_events", "to_state", "to_state", STATES, "'denied'"),
    ("order_events", "ordereventkind", "kind", KINDS, "'denied'"),
    ("auto_trades", "exitreason", "exit_reason", EXITS, "'kill_switch', 'external'"),
)

# The application works under this role: it owns nothing, and what is written once it can only add to.
ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sauda_app') THEN
        CREATE ROLE sauda_app NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'the user % may not create roles', CURRENT_USER USING HINT = format(
            'Let an administrator of the server run: CREATE ROLE sauda_app NOLOGIN; GRANT sauda_app TO %I; '
            'then migrate again.', CURRENT_USER);
END $$
"""
# Who may not grant the role has been granted it by whoever made it, or cannot go on.
MEMBERSHIP = """
DO $$
BEGIN
    GRANT sauda_app TO CURRENT_USER;
EXCEPTION WHEN insufficient_privilege THEN
    IF NOT pg_has_role('sauda_app', 'MEMBER') THEN
        RAISE EXCEPTION 'the user % does not have the role sauda_app', CURRENT_USER USING HINT = format(
            'Let an administrator of the server run: GRANT sauda_app TO %I; then migrate again.', CURRENT_USER);
    END IF;
END $$
"""
APPEND_ONLY = "ledger_entries, fills, order_events, paper_entries, paper_trades"
GRANTS = (
    MEMBERSHIP,
    "GRANT USAGE ON SCHEMA public TO sauda_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO sauda_app",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO sauda_app",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO sauda_app",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO sauda_app",
    f"REVOKE UPDATE, DELETE, TRUNCATE ON {APPEND_ONLY} FROM sauda_app",
    "REVOKE ALL ON alembic_version FROM sauda_app",
    "GRANT SELECT ON alembic_version TO sauda_app",
)
UNGRANTS = (
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT, INSERT, UPDATE, DELETE ON TABLES FROM sauda_app",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE USAGE, SELECT ON SEQUENCES FROM sauda_app",
    "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM sauda_app",
    "REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM sauda_app",
    "REVOKE ALL ON SCHEMA public FROM sauda_app",
)


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("ledger_journal_seq")))
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.String(length=8), nullable=False),
        sa.Column("route", sa.String(length=120), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "claimed_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("content_type", sa.String(length=100), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_idempotency_keys_user_id")),
        sa.PrimaryKeyConstraint("user_id", "method", "route", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_claimed_at", "idempotency_keys", ["claimed_at"], unique=False)
    op.create_table(
        "live_permissions",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("compliance_reference", sa.String(length=100), nullable=True),
        sa.Column("approved_by", sa.BigInteger(), nullable=True),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["approved_by"], ["users.id"], name=op.f("fk_live_permissions_approved_by")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_live_permissions_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_live_permissions")),
    )
    op.create_table(
        "trading_states",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "scope",
            sa.Enum(
                "platform",
                "broker",
                "strategy",
                "user",
                name="scope",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("key", sa.String(length=60), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "active",
                "reducing",
                "halted",
                name="tradingstate",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("flatten", sa.Boolean(), nullable=False),
        sa.Column(
            "cause",
            sa.Enum(
                "user_kill_switch",
                "admin",
                "daily_loss",
                "rejections",
                "order_rate",
                "orders_exceed_intents",
                "unknown_own_order",
                "backup_restored",
                name="cause",
                native_enum=False,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("detail", sa.String(length=300), nullable=False),
        sa.Column("set_by", sa.BigInteger(), nullable=True),
        sa.Column("set_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_by", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.String(length=300), nullable=True),
        sa.ForeignKeyConstraint(["ended_by"], ["users.id"], name=op.f("fk_trading_states_ended_by")),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_trading_states_set_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trading_states")),
    )
    op.create_index(
        "ix_trading_states_scope_key_ended_at", "trading_states", ["scope", "key", "ended_at"], unique=False
    )
    op.create_index(
        "uq_trading_states_standing",
        "trading_states",
        ["scope", "key"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "day_equity",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("trade_date", sa.Date(), nullable=False),
        sa.Column("equity_rupees", sa.Numeric(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_day_equity_account_id")),
        sa.PrimaryKeyConstraint("account_id", "trade_date", name=op.f("pk_day_equity")),
    )
    op.create_table(
        "ledger_balances",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "ledger_account",
            sa.Enum(
                "cash",
                "reserved",
                "positions",
                "charges",
                "pnl",
                "external",
                name="ledgeraccount",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column("balance", sa.Numeric(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_ledger_balances_account_id")),
        sa.PrimaryKeyConstraint("account_id", "ledger_account", "symbol", name=op.f("pk_ledger_balances")),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("journal", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "fund",
                "adjust",
                "reserve",
                "release",
                "buy",
                "sell",
                name="journalkind",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column(
            "ledger_account",
            sa.Enum(
                "cash",
                "reserved",
                "positions",
                "charges",
                "pnl",
                "external",
                name="ledgeraccount",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("order_id", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "quantity = 0 OR ledger_account = 'positions'", name=op.f("ck_ledger_entries_shares_in_positions_only")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_ledger_entries_account_id")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_ledger_entries_order_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_entries")),
    )
    op.create_index("ix_ledger_entries_account_id_id", "ledger_entries", ["account_id", "id"], unique=False)
    op.create_index(op.f("ix_ledger_entries_journal"), "ledger_entries", ["journal"], unique=False)
    op.create_index(op.f("ix_ledger_entries_order_id"), "ledger_entries", ["order_id"], unique=False)
    op.add_column(
        "auto_trade_settings",
        sa.Column(
            "protections",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column("deployment", sa.Column("name", sa.String(length=32), nullable=False, server_default=""))
    op.add_column("deployment", sa.Column("cluster", sa.String(length=40), nullable=False, server_default=""))
    op.add_column("deployment", sa.Column("timeline", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deployment", sa.Column("starts", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column(
        "orders",
        sa.Column(
            "origin",
            sa.Enum(
                "engine", "manual", "external", name="orderorigin", native_enum=False, create_constraint=True, length=24
            ),
            nullable=False,
            server_default="engine",
        ),
    )
    op.add_column(
        "orders",
        sa.Column(
            "denied_reason",
            sa.Enum(
                "market_not_continuous",
                "no_prediction",
                "model_abstained",
                "mode_not_certified",
                "not_a_buy",
                "confidence_below_mode",
                "return_below_mode",
                "lower_bound_not_positive",
                "no_quote",
                "quote_stale",
                "quote_unusable",
                "price_moved",
                "auto_trading_disabled",
                "symbol_not_selected",
                "broker_unavailable",
                "plan_limit",
                "own_day_limit",
                "already_held",
                "order_open",
                "order_unknown",
                "exited_today",
                "entry_failed_today",
                "funds_in_use_limit",
                "budget_below_one_share",
                "edge_below_charges",
                "no_intraday_model",
                "too_late_for_intraday",
                "outside_price_band",
                "outside_collar",
                "not_on_tick",
                "quantity_invalid",
                "above_freeze_quantity",
                "order_value_limit",
                "sell_exceeds_holding",
                "insufficient_funds",
                "trading_halted",
                "trading_reducing",
                "open_value_limit",
                "own_opposite_order",
                "orders_per_second",
                "orders_per_minute",
                "orders_per_day",
                "symbol_order_rate",
                "rejections_running",
                "orders_exceed_intents",
                "live_switch_off",
                name="reason",
                native_enum=False,
                length=40,
            ),
            nullable=True,
        ),
    )
    op.add_column("orders", sa.Column("lookups", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("orders", sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True))
    op.alter_column("orders", "auto_trade_id", existing_type=sa.BIGINT(), nullable=True)
    op.alter_column("orders", "cycle_id", existing_type=sa.BIGINT(), nullable=True)
    op.alter_column("orders", "shard", existing_type=sa.INTEGER(), nullable=True)
    op.alter_column("orders", "limit_price", existing_type=sa.NUMERIC(precision=18, scale=4), nullable=True)
    op.create_index("ix_orders_account_id_submitted_at", "orders", ["account_id", "submitted_at"], unique=False)
    op.create_index("ix_orders_account_id_broker_order_id", "orders", ["account_id", "broker_order_id"], unique=False)
    op.create_index("ix_orders_user_id_id", "orders", ["user_id", "id"], unique=False)
    op.create_foreign_key(
        op.f("fk_orders_account_id_user_id"), "orders", "broker_accounts", ["account_id", "user_id"], ["id", "user_id"]
    )
    op.add_column("plans", sa.Column("live", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    for table, columns in (
        ("deployment", ("name", "cluster", "timeline", "starts")),
        ("orders", ("origin",)),
        ("plans", ("live",)),
    ):
        for column in columns:
            op.alter_column(table, column, server_default=None)
    op.execute("UPDATE plans SET live = code <> 'free'")
    for table, name, column, values, added in WIDENED:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, f"{column} IN ({values}, {added})")
    op.create_check_constraint(
        op.f("ck_orders_no_order_without_a_limit"), "orders", "limit_price IS NOT NULL OR origin = 'external'"
    )
    op.create_check_constraint(
        op.f("ck_orders_engine_orders_have_a_cycle"), "orders", "(origin = 'engine') = (cycle_id IS NOT NULL)"
    )
    op.execute(ROLE)
    for grant in GRANTS:
        op.execute(grant)


def downgrade() -> None:
    for statement in UNGRANTS:
        op.execute(statement)
    op.drop_constraint(op.f("ck_orders_engine_orders_have_a_cycle"), "orders", type_="check")
    op.drop_constraint(op.f("ck_orders_no_order_without_a_limit"), "orders", type_="check")
    for table, name, column, values, _ in WIDENED:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, f"{column} IN ({values})")
    op.drop_column("plans", "live")
    op.drop_constraint(op.f("fk_orders_account_id_user_id"), "orders", type_="foreignkey")
    op.drop_index("ix_orders_user_id_id", table_name="orders")
    op.drop_index("ix_orders_account_id_broker_order_id", table_name="orders")
    op.drop_index("ix_orders_account_id_submitted_at", table_name="orders")
    op.alter_column("orders", "limit_price", existing_type=sa.NUMERIC(precision=18, scale=4), nullable=False)
    op.alter_column("orders", "shard", existing_type=sa.INTEGER(), nullable=False)
    op.alter_column("orders", "cycle_id", existing_type=sa.BIGINT(), nullable=False)
    op.alter_column("orders", "auto_trade_id", existing_type=sa.BIGINT(), nullable=False)
    op.drop_column("orders", "missing_since")
    op.drop_column("orders", "lookups")
    op.drop_column("orders", "denied_reason")
    op.drop_column("orders", "origin")
    op.drop_column("deployment", "starts")
    op.drop_column("deployment", "timeline")
    op.drop_column("deployment", "cluster")
    op.drop_column("deployment", "name")
    op.drop_column("auto_trade_settings", "protections")
    op.drop_index(op.f("ix_ledger_entries_order_id"), table_name="ledger_entries")
    op.drop_index(op.f("ix_ledger_entries_journal"), table_name="ledger_entries")
    op.drop_index("ix_ledger_entries_account_id_id", table_name="ledger_entries")
    op.drop_table("ledger_entries")
    op.drop_table("ledger_balances")
    op.drop_table("day_equity")
    op.drop_index(
        "uq_trading_states_standing", table_name="trading_states", postgresql_where=sa.text("ended_at IS NULL")
    )
    op.drop_index("ix_trading_states_scope_key_ended_at", table_name="trading_states")
    op.drop_table("trading_states")
    op.drop_table("live_permissions")
    op.drop_index("ix_idempotency_keys_claimed_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.execute(sa.schema.DropSequence(sa.Sequence("ledger_journal_seq")))
