"""accounts: logins, second factors, API keys, consents, billing, sealed broker credentials, compliance, the audit log"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0006"
down_revision: str | Sequence[str] | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

PAID = ["portfolio", "manual_trading", "auto_trading", "backtests", "api_keys", "live"]
PLANS = (
    ("free", [], [], 0, 0, 0),
    ("basic", PAID, ["paper", "zerodha", "upstox", "dhan"], 10, 4990, 14),
    ("pro", PAID, ["paper", "zerodha", "upstox", "dhan"], 50, 19990, 14),
    ("enterprise", PAID, ["paper", "zerodha", "upstox", "dhan"], 500, 99990, 0),
)
"""By plan: features, brokers, symbols at most, rupees a year, days of trial. A plan of the deployment's own gets all."""

MOVE_PASSWORDS = "INSERT INTO credentials (user_id, password_hash) SELECT id, password_hash FROM users"
MOVE_PASSWORDS_BACK = "UPDATE users SET password_hash = coalesce((SELECT c.password_hash FROM credentials c WHERE c.user_id = users.id), '!')"

CHECKS = (
    ("users", "role", "role", "'user', 'admin'", "'user', 'support', 'admin'"),
    (
        "subscriptions",
        "subscriptionstatus",
        "status",
        "'pending', 'active', 'cancelled'",
        "'pending', 'trialing', 'active', 'past_due', 'cancelled'",
    ),
    ("broker_accounts", "brokeraccountstatus", "status", "'ready', 'disabled'", "'ready', 'disabled', 'closed'"),
)
"""Lists of values that grew: table, constraint, column, the old ones, the new ones."""

# Each entry is numbered and chained to the one before it as it comes in: whoever inserts has no say in it. The one
# row of audit_head puts the writers in a line until they commit.
AUDIT = (
    "INSERT INTO audit_head (id, entry_id, hash) VALUES (1, 0, sha256('sauda'::bytea))",
    """
    CREATE FUNCTION audit_chain() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
        UPDATE audit_head SET entry_id = entry_id + 1 WHERE id = 1 RETURNING entry_id, audit_head.hash INTO NEW.id, NEW.previous_hash;
        NEW.at := clock_timestamp();
        NEW.hash := sha256(NEW.previous_hash || convert_to(json_build_array(
            NEW.id, extract(epoch FROM NEW.at), NEW.actor, NEW.actor_id, NEW.ip, NEW.action, NEW.subject_id,
            NEW.target, NEW.before, NEW.after, NEW.reason)::text, 'UTF8'));
        UPDATE audit_head SET hash = NEW.hash WHERE id = 1;
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER audit_chain BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_chain()",
    "REVOKE ALL ON FUNCTION audit_chain() FROM PUBLIC",
)


def upgrade() -> None:
    _create()
    for table, name, column, _, new in CHECKS:
        _check(table, name, column, new)
    for statement in AUDIT:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER audit_chain ON audit_log")
    op.execute("DROP FUNCTION audit_chain()")
    op.execute("UPDATE users SET role = 'user' WHERE role = 'support'")
    op.execute("UPDATE subscriptions SET status = 'active' WHERE status IN ('trialing', 'past_due')")
    op.execute("UPDATE broker_accounts SET status = 'disabled' WHERE status = 'closed'")
    for table, name, column, old, _ in CHECKS:
        _check(table, name, column, old)
    _drop()


def _check(table: str, name: str, column: str, values: str) -> None:
    op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
    op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, f"{column} IN ({values})")


def _fill_plans() -> None:
    plans = sa.table(
        "plans",
        sa.column("code"),
        sa.column("features", postgresql.ARRAY(sa.String)),
        sa.column("brokers", postgresql.ARRAY(sa.String)),
        sa.column("symbols_max"),
        sa.column("price_rupees_per_year"),
        sa.column("price_rupees_per_month"),
        sa.column("trial_days"),
    )
    op.execute(
        plans.update().values(
            features=PAID,
            brokers=["paper"],
            symbols_max=50,
            price_rupees_per_year=plans.c.price_rupees_per_month * 12,
        )
    )
    for code, features, brokers, symbols_max, yearly, trial_days in PLANS:
        op.execute(
            plans.update()
            .where(plans.c.code == code)
            .values(
                features=features,
                brokers=brokers,
                symbols_max=symbols_max,
                price_rupees_per_year=yearly,
                trial_days=trial_days,
            )
        )
    for column in ("features", "brokers", "symbols_max", "price_rupees_per_year", "trial_days", "offered"):
        op.alter_column("plans", column, server_default=None)


def _create() -> None:  # noqa: PLR0915
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("actor", sa.String(length=60), nullable=False),
        sa.Column("actor_id", sa.BigInteger(), nullable=True),
        sa.Column("ip", sa.String(length=45), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("subject_id", sa.BigInteger(), nullable=True),
        sa.Column("target", sa.String(length=120), nullable=False),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("reason", sa.String(length=300), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"], unique=False)
    op.create_index("ix_audit_log_subject_id_id", "audit_log", ["subject_id", "id"], unique=False)
    op.create_table(
        "invoice_series",
        sa.Column("financial_year", sa.String(length=7), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("financial_year", name=op.f("pk_invoice_series")),
    )
    op.create_table(
        "login_delays",
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("blocked_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_login_delays")),
    )
    op.create_index("ix_login_delays_failed_at", "login_delays", ["failed_at"], unique=False)
    op.create_table(
        "payment_events",
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("event_id", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=60), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("outcome", sa.String(length=200), nullable=False),
        sa.Column(
            "received_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("provider", "event_id", name=op.f("pk_payment_events")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.String(length=20)), nullable=False),
        sa.Column("paper_only", sa.Boolean(), nullable=False),
        sa.Column("networks", postgresql.ARRAY(sa.String(length=43)), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_ip", sa.String(length=45), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_keys_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
    op.create_index(op.f("ix_api_keys_user_id"), "api_keys", ["user_id"], unique=False)
    op.create_table(
        "billing_details",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("address", sa.String(length=300), nullable=False),
        sa.Column("state_code", sa.String(length=2), nullable=False),
        sa.Column("gstin", sa.String(length=15), nullable=True),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_billing_details_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_billing_details")),
    )
    op.create_table(
        "compliance_records",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "self_hosted_family",
                "empanelled_provider",
                name="compliancekind",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("broker", sa.String(length=20), nullable=False),
        sa.Column("algo_id", sa.String(length=40), nullable=False),
        sa.Column("egress_ip", sa.String(length=45), nullable=False),
        sa.Column("approval", sa.String(length=200), nullable=False),
        sa.Column("approved_on", sa.Date(), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("valid_until", sa.Date(), nullable=False),
        sa.Column("recorded_by", sa.BigInteger(), nullable=False),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.BigInteger(), nullable=True),
        sa.Column("revoke_reason", sa.String(length=300), nullable=True),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_by IS NULL)", name=op.f("ck_compliance_records_revoked_by_somebody")
        ),
        sa.CheckConstraint("valid_until >= valid_from", name=op.f("ck_compliance_records_ends_after_it_begins")),
        sa.ForeignKeyConstraint(["recorded_by"], ["users.id"], name=op.f("fk_compliance_records_recorded_by")),
        sa.ForeignKeyConstraint(["revoked_by"], ["users.id"], name=op.f("fk_compliance_records_revoked_by")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_compliance_records_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_compliance_records")),
    )
    op.create_index(
        "uq_compliance_records_standing",
        "compliance_records",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "consents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("notice", sa.String(length=40), nullable=False),
        sa.Column("version", sa.String(length=20), nullable=False),
        sa.Column("given", sa.Boolean(), nullable=False),
        sa.Column("ip", sa.String(length=45), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_consents_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consents")),
    )
    op.create_index("ix_consents_user_id_notice_id", "consents", ["user_id", "notice", "id"], unique=False)
    op.create_table(
        "credentials",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column(
            "password_changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("totp_secret", sa.LargeBinary(), nullable=True),
        sa.Column("totp_confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("totp_last_step", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "totp_confirmed_at IS NULL OR totp_secret IS NOT NULL",
            name=op.f("ck_credentials_no_second_factor_without_secret"),
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_credentials_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_credentials")),
    )
    op.create_table(
        "email_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "purpose",
            sa.Enum(
                "verify", "reset", "change", name="emailpurpose", native_enum=False, create_constraint=True, length=24
            ),
            nullable=False,
        ),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_email_tokens_user_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_email_tokens")),
    )
    op.create_index(op.f("ix_email_tokens_user_id"), "email_tokens", ["user_id"], unique=False)
    op.create_table(
        "login_sessions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("device", sa.String(length=200), nullable=False),
        sa.Column("ip", sa.String(length=45), nullable=False),
        sa.Column("proved_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("second_factor_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "last_used_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_reason", sa.String(length=40), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_login_sessions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_login_sessions")),
    )
    op.create_index(op.f("ix_login_sessions_user_id"), "login_sessions", ["user_id"], unique=False)
    op.create_table(
        "recovery_codes",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_recovery_codes_user_id")),
        sa.PrimaryKeyConstraint("user_id", "code_hash", name=op.f("pk_recovery_codes")),
    )
    op.create_table(
        "broker_credentials",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("field", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.String(length=4), nullable=False),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["account_id", "user_id"],
            ["broker_accounts.id", "broker_accounts.user_id"],
            name=op.f("fk_broker_credentials_account_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("account_id", "field", name=op.f("pk_broker_credentials")),
    )
    op.create_index(op.f("ix_broker_credentials_key_id"), "broker_credentials", ["key_id"], unique=False)
    op.create_table(
        "invoices",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("number", sa.String(length=16), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("subscription_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_code", sa.String(length=20), nullable=False),
        sa.Column(
            "billing",
            sa.Enum("monthly", "yearly", name="billing", native_enum=False, create_constraint=True, length=24),
            nullable=False,
        ),
        sa.Column("period_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("issued_on", sa.Date(), nullable=False),
        sa.Column("seller", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("buyer", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sac", sa.String(length=8), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("credit", sa.Numeric(), nullable=False),
        sa.Column("taxable", sa.Numeric(), nullable=False),
        sa.Column("gst_percent", sa.Numeric(precision=5, scale=2), nullable=False),
        sa.Column("cgst", sa.Numeric(), nullable=False),
        sa.Column("sgst", sa.Numeric(), nullable=False),
        sa.Column("igst", sa.Numeric(), nullable=False),
        sa.Column("total", sa.Numeric(), nullable=False),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("taxable = price - credit", name=op.f("ck_invoices_taxable_is_price_less_credit")),
        sa.CheckConstraint("total = taxable + cgst + sgst + igst", name=op.f("ck_invoices_adds_up")),
        sa.ForeignKeyConstraint(["plan_code"], ["plans.code"], name=op.f("fk_invoices_plan_code")),
        sa.ForeignKeyConstraint(["subscription_id"], ["subscriptions.id"], name=op.f("fk_invoices_subscription_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_invoices_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoices")),
        sa.UniqueConstraint("number", name=op.f("uq_invoices_number")),
    )
    op.create_index("ix_invoices_user_id_id", "invoices", ["user_id", "id"], unique=False)
    op.create_table(
        "refresh_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["login_sessions.id"], name=op.f("fk_refresh_tokens_session_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_refresh_tokens_user_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_refresh_tokens")),
    )
    op.create_index(op.f("ix_refresh_tokens_session_id"), "refresh_tokens", ["session_id"], unique=False)
    op.create_index(op.f("ix_refresh_tokens_user_id"), "refresh_tokens", ["user_id"], unique=False)
    op.create_table(
        "payments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("subscription_id", sa.BigInteger(), nullable=False),
        sa.Column("invoice_id", sa.BigInteger(), nullable=True),
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("provider_ref", sa.String(length=80), nullable=False),
        sa.Column("provider_payment", sa.String(length=80), nullable=True),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("credit", sa.Numeric(), nullable=False),
        sa.Column("tax", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "created",
                "paid",
                "failed",
                "refunded",
                name="paymentstatus",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoices.id"], name=op.f("fk_payments_invoice_id")),
        sa.ForeignKeyConstraint(["subscription_id"], ["subscriptions.id"], name=op.f("fk_payments_subscription_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_payments_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sa.UniqueConstraint("provider", "provider_payment", name=op.f("uq_payments_provider_provider_payment")),
        sa.UniqueConstraint("provider", "provider_ref", name=op.f("uq_payments_provider_provider_ref")),
    )
    op.create_index(op.f("ix_payments_user_id"), "payments", ["user_id"], unique=False)
    op.drop_constraint(op.f("fk_live_permissions_approved_by"), "live_permissions", type_="foreignkey")
    op.drop_column("live_permissions", "approved_at")
    op.drop_column("live_permissions", "approved_by")
    op.drop_column("live_permissions", "compliance_reference")
    op.add_column("outbox", sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("outbox", sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "plans",
        sa.Column("features", postgresql.ARRAY(sa.String(length=40)), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column(
        "plans",
        sa.Column("brokers", postgresql.ARRAY(sa.String(length=20)), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column("plans", sa.Column("symbols_max", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "plans", sa.Column("price_rupees_per_year", sa.Numeric(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("plans", sa.Column("trial_days", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("plans", sa.Column("offered", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    _fill_plans()
    op.drop_column("plans", "live")
    op.add_column(
        "subscriptions",
        sa.Column(
            "billing",
            sa.Enum("monthly", "yearly", name="billing", native_enum=False, create_constraint=True, length=24),
            server_default=sa.text("'monthly'"),
            nullable=False,
        ),
    )
    op.add_column(
        "subscriptions", sa.Column("provider", sa.String(length=20), server_default=sa.text("'manual'"), nullable=False)
    )
    op.add_column("subscriptions", sa.Column("provider_ref", sa.String(length=80), nullable=True))
    op.add_column("subscriptions", sa.Column("trial_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("subscriptions", sa.Column("period_from", sa.DateTime(timezone=True), nullable=True))
    op.add_column("subscriptions", sa.Column("period_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("subscriptions", sa.Column("grace_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "subscriptions", sa.Column("cancel_at_end", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("subscriptions", sa.Column("next_plan_code", sa.String(length=20), nullable=True))
    op.add_column(
        "subscriptions",
        sa.Column(
            "next_billing",
            sa.Enum("monthly", "yearly", name="next_billing", native_enum=False, create_constraint=True, length=24),
            nullable=True,
        ),
    )
    op.drop_index(
        op.f("uq_subscriptions_one_active"),
        table_name="subscriptions",
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index(
        "ix_subscriptions_period_until",
        "subscriptions",
        ["period_until"],
        unique=False,
        postgresql_where=sa.text("status IN ('trialing', 'active', 'past_due')"),
    )
    op.create_index(
        "uq_subscriptions_one_current",
        "subscriptions",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('trialing', 'active', 'past_due')"),
    )
    op.create_unique_constraint(op.f("uq_subscriptions_provider_ref"), "subscriptions", ["provider_ref"])
    op.create_foreign_key(
        op.f("fk_subscriptions_next_plan_code"), "subscriptions", "plans", ["next_plan_code"], ["code"]
    )
    op.add_column("users", sa.Column("email_verified_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("users", sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(MOVE_PASSWORDS)
    op.drop_column("users", "password_hash")
    for column in ("billing", "provider", "cancel_at_end"):
        op.alter_column("subscriptions", column, server_default=None)


def _drop() -> None:  # noqa: PLR0915
    op.add_column("users", sa.Column("password_hash", sa.String(255), nullable=True))
    op.execute(MOVE_PASSWORDS_BACK)
    op.alter_column("users", "password_hash", nullable=False)
    op.drop_column("users", "erased_at")
    op.drop_column("users", "email_verified_at")
    op.drop_constraint(op.f("fk_subscriptions_next_plan_code"), "subscriptions", type_="foreignkey")
    op.drop_constraint(op.f("uq_subscriptions_provider_ref"), "subscriptions", type_="unique")
    op.drop_index(
        "uq_subscriptions_one_current",
        table_name="subscriptions",
        postgresql_where=sa.text("status IN ('trialing', 'active', 'past_due')"),
    )
    op.drop_index(
        "ix_subscriptions_period_until",
        table_name="subscriptions",
        postgresql_where=sa.text("status IN ('trialing', 'active', 'past_due')"),
    )
    op.create_index(
        op.f("uq_subscriptions_one_active"),
        "subscriptions",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("status = 'active'"),
    )
    op.drop_column("subscriptions", "next_billing")
    op.drop_column("subscriptions", "next_plan_code")
    op.drop_column("subscriptions", "cancel_at_end")
    op.drop_column("subscriptions", "grace_until")
    op.drop_column("subscriptions", "period_until")
    op.drop_column("subscriptions", "period_from")
    op.drop_column("subscriptions", "trial_until")
    op.drop_column("subscriptions", "provider_ref")
    op.drop_column("subscriptions", "provider")
    op.drop_column("subscriptions", "billing")
    op.add_column("plans", sa.Column("live", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute("UPDATE plans SET live = 'live' = ANY(features)")
    op.drop_column("plans", "offered")
    op.drop_column("plans", "trial_days")
    op.drop_column("plans", "price_rupees_per_year")
    op.drop_column("plans", "symbols_max")
    op.drop_column("plans", "brokers")
    op.drop_column("plans", "features")
    op.drop_column("outbox", "next_attempt_at")
    op.drop_column("outbox", "attempts")
    op.add_column(
        "live_permissions",
        sa.Column("compliance_reference", sa.VARCHAR(length=100), autoincrement=False, nullable=True),
    )
    op.add_column("live_permissions", sa.Column("approved_by", sa.BIGINT(), autoincrement=False, nullable=True))
    op.add_column(
        "live_permissions",
        sa.Column("approved_at", postgresql.TIMESTAMP(timezone=True), autoincrement=False, nullable=True),
    )
    op.create_foreign_key(op.f("fk_live_permissions_approved_by"), "live_permissions", "users", ["approved_by"], ["id"])
    op.drop_index(op.f("ix_payments_user_id"), table_name="payments")
    op.drop_table("payments")
    op.drop_index(op.f("ix_refresh_tokens_user_id"), table_name="refresh_tokens")
    op.drop_index(op.f("ix_refresh_tokens_session_id"), table_name="refresh_tokens")
    op.drop_table("refresh_tokens")
    op.drop_index("ix_invoices_user_id_id", table_name="invoices")
    op.drop_table("invoices")
    op.drop_index(op.f("ix_broker_credentials_key_id"), table_name="broker_credentials")
    op.drop_table("broker_credentials")
    op.drop_table("recovery_codes")
    op.drop_index(op.f("ix_login_sessions_user_id"), table_name="login_sessions")
    op.drop_table("login_sessions")
    op.drop_index(op.f("ix_email_tokens_user_id"), table_name="email_tokens")
    op.drop_table("email_tokens")
    op.drop_table("credentials")
    op.drop_index("ix_consents_user_id_notice_id", table_name="consents")
    op.drop_table("consents")
    op.drop_index(
        "uq_compliance_records_standing",
        table_name="compliance_records",
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.drop_table("compliance_records")
    op.drop_table("billing_details")
    op.drop_index(op.f("ix_api_keys_user_id"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("payment_events")
    op.drop_index("ix_login_delays_failed_at", table_name="login_delays")
    op.drop_table("login_delays")
    op.drop_table("invoice_series")
    op.drop_index("ix_audit_log_subject_id_id", table_name="audit_log")
    op.drop_index("ix_audit_log_at", table_name="audit_log")
    op.drop_table("audit_log")
    op.drop_table("audit_head")
