"""initial schema"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


PLANS = (
    ("free", "Free", 0, 0, "Market data and predictions.", 0),
    ("basic", "Basic", 10, 499, "Portfolio and up to 10 auto-trades a day.", 1),
    ("pro", "Pro", 50, 1999, "Portfolio and up to 50 auto-trades a day.", 2),
    ("enterprise", "Enterprise", 1000, 9999, "Portfolio and up to 1,000 auto-trades a day.", 3),
)


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("fencing_token_seq")))
    op.create_table(
        "cycles",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trade_date", sa.Date(), nullable=False),
        sa.Column("environment", sa.String(length=12), nullable=False),
        sa.Column(
            "status",
            sa.Enum("open", "done", "missed", name="cyclestatus", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("inputs", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("summary", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cycles")),
        sa.UniqueConstraint("scheduled_at", name=op.f("uq_cycles_scheduled_at")),
    )
    op.create_table(
        "deployment",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("environment", sa.String(length=12), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_deployment_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment")),
    )
    op.create_table(
        "plans",
        sa.Column("code", sa.String(length=20), nullable=False),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("auto_trades_per_day", sa.Integer(), nullable=False),
        sa.Column("price_rupees_per_month", sa.Numeric(), nullable=False),
        sa.Column("description", sa.String(length=300), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_plans")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column(
            "role",
            sa.Enum("user", "admin", name="role", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("uq_users_email", "users", [sa.literal_column("lower(email)")], unique=True)
    op.create_table(
        "auto_trade_settings",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column(
            "mode",
            sa.Enum(
                "conservative",
                "moderate",
                "aggressive",
                name="mode",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column(
            "product",
            sa.Enum("cnc", "mis", name="product", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("symbols", postgresql.ARRAY(sa.String(length=20)), nullable=False),
        sa.Column("entries_per_day_max", sa.Integer(), nullable=True),
        sa.Column("enabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_auto_trade_settings_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_auto_trade_settings")),
    )
    op.create_table(
        "broker_accounts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("broker", sa.String(length=20), nullable=False),
        sa.Column("label", sa.String(length=60), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "ready", "disabled", name="brokeraccountstatus", native_enum=False, create_constraint=True, length=24
            ),
            nullable=False,
        ),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_broker_accounts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_broker_accounts")),
        sa.UniqueConstraint("id", "user_id", name=op.f("uq_broker_accounts_id_user_id")),
    )
    op.create_index(op.f("ix_broker_accounts_user_id"), "broker_accounts", ["user_id"], unique=False)
    op.create_index(
        "uq_broker_accounts_primary",
        "broker_accounts",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("is_primary"),
    )
    op.create_table(
        "calendar_overrides",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("exchange", sa.String(length=3), nullable=True),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("open_at", sa.Time(), nullable=True),
        sa.Column("close_at", sa.Time(), nullable=True),
        sa.Column("reason", sa.String(length=300), nullable=False),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_calendar_overrides_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calendar_overrides")),
    )
    op.create_table(
        "cycle_shards",
        sa.Column("cycle_id", sa.BigInteger(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recorded", sa.Boolean(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_cycle_shards_cycle_id")),
        sa.PrimaryKeyConstraint("cycle_id", "shard", name=op.f("pk_cycle_shards")),
    )
    op.create_table(
        "daily_usage",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("trade_date", sa.Date(), nullable=False),
        sa.Column("entries_used", sa.Integer(), nullable=False),
        sa.Column("last_claim", sa.Integer(), nullable=False),
        sa.Column("entries_max", sa.Integer(), nullable=False),
        sa.CheckConstraint("entries_used >= 0", name=op.f("ck_daily_usage_not_negative")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_daily_usage_user_id")),
        sa.PrimaryKeyConstraint("user_id", "trade_date", name=op.f("pk_daily_usage")),
    )
    op.create_table(
        "decisions",
        sa.Column("cycle_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "mode",
            sa.Enum(
                "conservative",
                "moderate",
                "aggressive",
                name="mode",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("skipped_reason", sa.String(length=40), nullable=True),
        sa.Column("outcomes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.id"], name=op.f("fk_decisions_cycle_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_decisions_user_id")),
        sa.PrimaryKeyConstraint("cycle_id", "user_id", name=op.f("pk_decisions")),
    )
    op.create_index("ix_decisions_user_id_cycle_id", "decisions", ["user_id", "cycle_id"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("topic", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_outbox_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index(
        "ix_outbox_undelivered", "outbox", ["id"], unique=False, postgresql_where=sa.text("delivered_at IS NULL")
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_code", sa.String(length=20), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "active",
                "cancelled",
                name="subscriptionstatus",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column(
            "requested_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("activated_by", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["activated_by"], ["users.id"], name=op.f("fk_subscriptions_activated_by")),
        sa.ForeignKeyConstraint(["plan_code"], ["plans.code"], name=op.f("fk_subscriptions_plan_code")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_subscriptions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
    )
    op.create_index(op.f("ix_subscriptions_user_id"), "subscriptions", ["user_id"], unique=False)
    op.create_index(
        "uq_subscriptions_one_active",
        "subscriptions",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index(
        "uq_subscriptions_one_pending",
        "subscriptions",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "auto_trades",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("cycle_id", sa.BigInteger(), nullable=False),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column("exchange", sa.String(length=3), nullable=False),
        sa.Column(
            "side",
            sa.Enum("buy", "sell", name="side", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column(
            "product",
            sa.Enum("cnc", "mis", name="product", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column(
            "mode",
            sa.Enum(
                "conservative",
                "moderate",
                "aggressive",
                name="mode",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column(
            "status",
            sa.Enum(
                "entering",
                "open",
                "exiting",
                "closed",
                "cancelled",
                name="tradestatus",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("strategy", sa.String(length=40), nullable=False),
        sa.Column("model_version", sa.String(length=64), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("confidence_kind", sa.String(length=40), nullable=False),
        sa.Column("expected_return_net", sa.Double(), nullable=False),
        sa.Column("horizon_ends_on", sa.Date(), nullable=False),
        sa.Column("reference_price", sa.Numeric(precision=18, scale=4), nullable=False),
        sa.Column("target_price", sa.Numeric(precision=18, scale=4), nullable=False),
        sa.Column("stop_price", sa.Numeric(precision=18, scale=4), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("entry_quantity", sa.Integer(), nullable=False),
        sa.Column("entry_price", sa.Numeric(precision=18, scale=6), nullable=True),
        sa.Column("exit_quantity", sa.Integer(), nullable=False),
        sa.Column("exit_price", sa.Numeric(precision=18, scale=6), nullable=True),
        sa.Column(
            "exit_reason",
            sa.Enum(
                "target",
                "stop",
                "horizon",
                "opposite_signal",
                "square_off",
                name="exitreason",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=True,
        ),
        sa.Column("charges", sa.Numeric(), nullable=False),
        sa.Column("realized_pnl", sa.Numeric(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["account_id", "user_id"],
            ["broker_accounts.id", "broker_accounts.user_id"],
            name=op.f("fk_auto_trades_account_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_auto_trades")),
    )
    op.create_index("ix_auto_trades_user_id_closed_at", "auto_trades", ["user_id", "closed_at"], unique=False)
    op.create_index("ix_auto_trades_user_id_id", "auto_trades", ["user_id", "id"], unique=False)
    op.create_index(
        "uq_auto_trades_one_live_per_symbol",
        "auto_trades",
        ["account_id", "symbol"],
        unique=True,
        postgresql_where=sa.text("status IN ('entering', 'open', 'exiting')"),
    )
    op.create_table(
        "paper_balances",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("asset", sa.String(length=20), nullable=False),
        sa.Column("balance", sa.Numeric(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_paper_balances_account_id")),
        sa.PrimaryKeyConstraint("account_id", "asset", name=op.f("pk_paper_balances")),
    )
    op.create_table(
        "paper_orders",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("tag", sa.String(length=20), nullable=False),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column("exchange", sa.String(length=3), nullable=False),
        sa.Column(
            "side",
            sa.Enum("buy", "sell", name="side", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column(
            "product",
            sa.Enum("cnc", "mis", name="product", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column(
            "order_type",
            sa.Enum("limit", "sl", "market", name="ordertype", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("limit_price", sa.Numeric(precision=18, scale=4), nullable=False),
        sa.Column("trigger_price", sa.Numeric(precision=18, scale=4), nullable=True),
        sa.Column(
            "status",
            sa.Enum(
                "open",
                "trigger_pending",
                "complete",
                "rejected",
                "cancelled",
                "expired",
                name="paperstatus",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("filled_quantity", sa.Integer(), nullable=False),
        sa.Column("filled_value", sa.Numeric(), nullable=False),
        sa.Column("charges", sa.Numeric(), nullable=False),
        sa.Column("message", sa.String(length=300), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("matched_through", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_paper_orders_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_paper_orders")),
    )
    op.create_index(
        "ix_paper_orders_resting",
        "paper_orders",
        ["account_id"],
        unique=False,
        postgresql_where=sa.text("status IN ('open', 'trigger_pending')"),
    )
    op.create_index(op.f("ix_paper_orders_tag"), "paper_orders", ["tag"], unique=False)
    op.create_table(
        "orders",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("client_order_id", sa.String(length=20), nullable=False),
        sa.Column("auto_trade_id", sa.BigInteger(), nullable=False),
        sa.Column("cycle_id", sa.BigInteger(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "intent",
            sa.Enum("entry", "exit", name="intent", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column("exchange", sa.String(length=3), nullable=False),
        sa.Column(
            "side",
            sa.Enum("buy", "sell", name="side", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column(
            "product",
            sa.Enum("cnc", "mis", name="product", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column(
            "order_type",
            sa.Enum("limit", "sl", "market", name="ordertype", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("limit_price", sa.Numeric(precision=18, scale=4), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "pending",
                "submitted",
                "accepted",
                "partially_filled",
                "filled",
                "rejected",
                "cancel_pending",
                "cancelled",
                "expired",
                "unknown",
                name="orderstate",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("filled_quantity", sa.Integer(), nullable=False),
        sa.Column("average_price", sa.Numeric(precision=18, scale=6), nullable=True),
        sa.Column("broker_order_id", sa.String(length=40), nullable=True),
        sa.Column("status_message", sa.String(length=300), nullable=True),
        sa.Column("environment", sa.String(length=12), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("filled_quantity BETWEEN 0 AND quantity", name=op.f("ck_orders_filled_within_quantity")),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_orders_quantity_positive")),
        sa.ForeignKeyConstraint(["auto_trade_id"], ["auto_trades.id"], name=op.f("fk_orders_auto_trade_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("client_order_id", name=op.f("uq_orders_client_order_id")),
    )
    op.create_index(op.f("ix_orders_auto_trade_id"), "orders", ["auto_trade_id"], unique=False)
    op.create_index(
        "ix_orders_live",
        "orders",
        ["user_id"],
        unique=False,
        postgresql_where=sa.text(
            "state IN ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')"
        ),
    )
    op.create_index("ix_orders_submitted_at", "orders", ["submitted_at"], unique=False)
    op.create_index(
        "uq_orders_one_live_exit",
        "orders",
        ["auto_trade_id"],
        unique=True,
        postgresql_where=sa.text(
            "intent = 'exit' AND state IN ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')"
        ),
    )
    op.create_table(
        "paper_trades",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("order_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("price", sa.Numeric(precision=18, scale=4), nullable=False),
        sa.Column("charges", sa.Numeric(), nullable=False),
        sa.Column("trade_date", sa.Date(), nullable=False),
        sa.Column("traded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_paper_trades_account_id")),
        sa.ForeignKeyConstraint(["order_id"], ["paper_orders.id"], name=op.f("fk_paper_trades_order_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_paper_trades")),
    )
    op.create_index("ix_paper_trades_account_id_trade_date", "paper_trades", ["account_id", "trade_date"], unique=False)
    op.create_index(op.f("ix_paper_trades_order_id"), "paper_trades", ["order_id"], unique=False)
    op.create_table(
        "fills",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("order_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("trade_id", sa.String(length=40), nullable=False),
        sa.Column("trade_date", sa.Date(), nullable=False),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column(
            "side",
            sa.Enum("buy", "sell", name="side", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("price", sa.Numeric(precision=18, scale=4), nullable=False),
        sa.Column("charges", sa.Numeric(), nullable=False),
        sa.Column("filled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("price > 0", name=op.f("ck_fills_price_positive")),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_fills_quantity_positive")),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_fills_account_id")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_fills_order_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fills")),
        sa.UniqueConstraint(
            "account_id", "trade_id", "trade_date", name=op.f("uq_fills_account_id_trade_id_trade_date")
        ),
    )
    op.create_index(op.f("ix_fills_order_id"), "fills", ["order_id"], unique=False)
    op.create_table(
        "order_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("order_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "submitted",
                "accepted",
                "partially_filled",
                "filled",
                "rejected",
                "cancel_requested",
                "cancelled",
                "expired",
                "lost",
                "abandoned",
                name="ordereventkind",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column(
            "from_state",
            sa.Enum(
                "pending",
                "submitted",
                "accepted",
                "partially_filled",
                "filled",
                "rejected",
                "cancel_pending",
                "cancelled",
                "expired",
                "unknown",
                name="from_state",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column(
            "to_state",
            sa.Enum(
                "pending",
                "submitted",
                "accepted",
                "partially_filled",
                "filled",
                "rejected",
                "cancel_pending",
                "cancelled",
                "expired",
                "unknown",
                name="to_state",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("detail", sa.String(length=300), nullable=False),
        sa.Column("market_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_events_order_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_events")),
    )
    op.create_index(op.f("ix_order_events_order_id"), "order_events", ["order_id"], unique=False)
    op.create_table(
        "paper_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("asset", sa.String(length=20), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "deposit",
                "trade",
                "charges",
                name="paperentrykind",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("balance_after", sa.Numeric(), nullable=False),
        sa.Column("trade_id", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_paper_entries_account_id")),
        sa.ForeignKeyConstraint(["trade_id"], ["paper_trades.id"], name=op.f("fk_paper_entries_trade_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_paper_entries")),
    )
    op.create_index(
        "ix_paper_entries_account_id_asset_id", "paper_entries", ["account_id", "asset", "id"], unique=False
    )
    plans = sa.table(
        "plans",
        *map(sa.column, ["code", "name", "auto_trades_per_day", "price_rupees_per_month", "description", "rank"]),
    )
    names = [column.name for column in plans.columns]
    op.bulk_insert(plans, [dict(zip(names, plan, strict=True)) for plan in PLANS])


def downgrade() -> None:
    op.drop_index("ix_paper_entries_account_id_asset_id", table_name="paper_entries")
    op.drop_table("paper_entries")
    op.drop_index(op.f("ix_order_events_order_id"), table_name="order_events")
    op.drop_table("order_events")
    op.drop_index(op.f("ix_fills_order_id"), table_name="fills")
    op.drop_table("fills")
    op.drop_index(op.f("ix_paper_trades_order_id"), table_name="paper_trades")
    op.drop_index("ix_paper_trades_account_id_trade_date", table_name="paper_trades")
    op.drop_table("paper_trades")
    op.drop_index(
        "uq_orders_one_live_exit",
        table_name="orders",
        postgresql_where=sa.text(
            "intent = 'exit' AND state IN ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')"
        ),
    )
    op.drop_index("ix_orders_submitted_at", table_name="orders")
    op.drop_index(
        "ix_orders_live",
        table_name="orders",
        postgresql_where=sa.text(
            "state IN ('pending', 'submitted', 'accepted', 'partially_filled', 'cancel_pending', 'unknown')"
        ),
    )
    op.drop_index(op.f("ix_orders_auto_trade_id"), table_name="orders")
    op.drop_table("orders")
    op.drop_index(op.f("ix_paper_orders_tag"), table_name="paper_orders")
    op.drop_index(
        "ix_paper_orders_resting",
        table_name="paper_orders",
        postgresql_where=sa.text("status IN ('open', 'trigger_pending')"),
    )
    op.drop_table("paper_orders")
    op.drop_table("paper_balances")
    op.drop_index(
        "uq_auto_trades_one_live_per_symbol",
        table_name="auto_trades",
        postgresql_where=sa.text("status IN ('entering', 'open', 'exiting')"),
    )
    op.drop_index("ix_auto_trades_user_id_id", table_name="auto_trades")
    op.drop_index("ix_auto_trades_user_id_closed_at", table_name="auto_trades")
    op.drop_table("auto_trades")
    op.drop_index(
        "uq_subscriptions_one_pending", table_name="subscriptions", postgresql_where=sa.text("status = 'pending'")
    )
    op.drop_index(
        "uq_subscriptions_one_active", table_name="subscriptions", postgresql_where=sa.text("status = 'active'")
    )
    op.drop_index(op.f("ix_subscriptions_user_id"), table_name="subscriptions")
    op.drop_table("subscriptions")
    op.drop_index("ix_outbox_undelivered", table_name="outbox", postgresql_where=sa.text("delivered_at IS NULL"))
    op.drop_table("outbox")
    op.drop_index("ix_decisions_user_id_cycle_id", table_name="decisions")
    op.drop_table("decisions")
    op.drop_table("daily_usage")
    op.drop_table("cycle_shards")
    op.drop_table("calendar_overrides")
    op.drop_index("uq_broker_accounts_primary", table_name="broker_accounts", postgresql_where=sa.text("is_primary"))
    op.drop_index(op.f("ix_broker_accounts_user_id"), table_name="broker_accounts")
    op.drop_table("broker_accounts")
    op.drop_table("auto_trade_settings")
    op.drop_index("uq_users_email", table_name="users")
    op.drop_table("users")
    op.drop_table("plans")
    op.drop_table("deployment")
    op.drop_table("cycles")
    op.execute(sa.schema.DropSequence(sa.Sequence("fencing_token_seq")))
