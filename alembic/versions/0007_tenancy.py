"""tenancy: row-level security on every table with a tenant's rows, and a role for each way of working"""

from collections.abc import Sequence

from alembic import op

revision: str = "0007"
down_revision: str | Sequence[str] | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ROLES = ("sauda_app", "sauda_identity", "sauda_operator", "sauda_trader")
"""sauda_app: one user's rows, and no order. sauda_identity: who somebody is, and nothing of what they own.
sauda_operator: administrators, billing and mail. sauda_trader: orders of everybody, and nobody's password.
"""
SERVICE = "sauda_service"
"""Whom the processes log in as: it owns nothing and has no rights but to take one of the roles."""

CREATE_ROLES = f"""
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['{"', '".join(ROLES)}'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
        BEGIN
            EXECUTE format('GRANT %I TO CURRENT_USER', name);
        EXCEPTION WHEN insufficient_privilege THEN
            IF NOT pg_has_role(name, 'MEMBER') THEN
                RAISE EXCEPTION 'the user % does not have the role %', CURRENT_USER, name USING HINT = format(
                    'Let an administrator of the server run: GRANT {", ".join(ROLES)} TO %I; then migrate again.',
                    CURRENT_USER);
            END IF;
        END;
    END LOOP;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'the user % may not create roles', CURRENT_USER USING HINT = format(
            'Let an administrator of the server run: {"; ".join(f"CREATE ROLE {role} NOLOGIN" for role in ROLES[1:])}; '
            'GRANT {", ".join(ROLES)} TO %I; then migrate again.', CURRENT_USER);
END $$
"""
# Where it may be made, so is the login role; on a server where it may not, the URL's own user takes its place.
CREATE_SERVICE = f"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SERVICE}') THEN
        CREATE ROLE {SERVICE} LOGIN NOINHERIT;
    END IF;
    GRANT {", ".join(ROLES)} TO {SERVICE} WITH INHERIT FALSE;
EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
END $$
"""

USER_ID = """
CREATE FUNCTION sauda_user_id() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('sauda.user_id', true), '')::bigint
"""

BY_USER = (
    "api_keys",
    "auto_trade_settings",
    "auto_trades",
    "backtest_usage",
    "backtests",
    "billing_details",
    "broker_accounts",
    "broker_credentials",
    "compliance_records",
    "consents",
    "credentials",
    "daily_usage",
    "decisions",
    "email_tokens",
    "idempotency_keys",
    "invoices",
    "live_permissions",
    "login_sessions",
    "orders",
    "outbox",
    "payments",
    "recovery_codes",
    "refresh_tokens",
    "subscriptions",
)
BY_ACCOUNT = (
    "account_actions",
    "day_equity",
    "fills",
    "ledger_balances",
    "ledger_entries",
    "paper_actions",
    "paper_balances",
    "paper_entries",
    "paper_orders",
    "paper_trades",
)
OWN_ACCOUNT = "EXISTS (SELECT FROM broker_accounts a WHERE a.id = account_id AND a.user_id = sauda_user_id())"
OWN = (
    {"users": "id = sauda_user_id()", "audit_log": "subject_id = sauda_user_id()"}
    | dict.fromkeys(BY_USER, "user_id = sauda_user_id()")
    | dict.fromkeys(BY_ACCOUNT, OWN_ACCOUNT)
    | {
        "order_events": "EXISTS (SELECT FROM orders o WHERE o.id = order_id AND o.user_id = sauda_user_id())",
        "trading_states": """
            scope IN ('platform', 'broker', 'strategy')
            OR scope = 'user' AND key = sauda_user_id()::text
            OR scope = 'holding' AND EXISTS (
                SELECT FROM broker_accounts a
                 WHERE a.user_id = sauda_user_id() AND a.id::text = split_part(key, ':', 1))
        """,
    }
)
"""Which rows of a table are the user's own."""
WRITTEN_BY_APP = (
    "api_keys, auto_trade_settings, backtests, backtest_usage, billing_details, email_tokens, "
    "idempotency_keys, live_permissions, login_sessions, recovery_codes, refresh_tokens"
)
"""What a user changes of their own. Orders, fills, ledger, plans and subscriptions are not among it."""
READ_BY_APP = (
    "account_actions, auto_trades, broker_accounts, calendar_overrides, compliance_records, consents, "
    "corporate_action_days, corporate_actions, credentials, cycle_shards, cycles, daily_usage, day_equity, decisions, "
    "deployment, fills, invoices, ledger_balances, ledger_entries, order_events, orders, paper_actions, "
    "paper_balances, paper_entries, paper_orders, paper_trades, payments, plans, subscriptions, "
    "trading_states, users, audit_log"
)
IDENTITY = "credentials, recovery_codes, login_sessions, refresh_tokens, email_tokens, api_keys, login_delays"
CREDENTIAL_COLUMNS = "password_hash, password_changed_at, totp_secret, totp_confirmed_at, totp_last_step"
APPEND_ONLY = "ledger_entries, fills, order_events, paper_entries, paper_trades, paper_actions, audit_log, consents"
KEPT = "account_actions, corporate_actions, invoices, compliance_records"
"""Rows that may be amended but never go."""

GRANTS = (
    f"GRANT USAGE ON SCHEMA public TO {', '.join(ROLES)}",
    f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {', '.join(ROLES)}",
    f"GRANT SELECT ON alembic_version TO {', '.join(ROLES)}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT, INSERT, UPDATE, DELETE ON TABLES FROM sauda_app",
    "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM sauda_app",
    "GRANT SELECT ON alembic_version TO sauda_app",
    # One user
    f"GRANT SELECT ON {READ_BY_APP} TO sauda_app",
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {WRITTEN_BY_APP} TO sauda_app",
    "GRANT UPDATE (name) ON users TO sauda_app",
    f"GRANT UPDATE ({CREDENTIAL_COLUMNS}) ON credentials TO sauda_app",
    "GRANT INSERT, UPDATE (label, status, is_primary) ON broker_accounts TO sauda_app",
    # A user gives and erases secrets; only what trades, or rotates keys, reads them back, sealed as they are.
    "GRANT SELECT (account_id, field, user_id, key_id, hint, updated_at), INSERT, DELETE ON broker_credentials TO sauda_app",
    "GRANT INSERT ON consents, outbox, audit_log TO sauda_app",
    # Who is calling
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {IDENTITY} TO sauda_identity",
    "GRANT SELECT, INSERT, UPDATE ON users TO sauda_identity",
    "GRANT SELECT ON plans, subscriptions TO sauda_identity",
    "GRANT INSERT ON consents, outbox, audit_log TO sauda_identity",
    # Administrators, billing, mail
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO sauda_operator",
    # The trading loop
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO sauda_trader",
    f"REVOKE ALL ON {IDENTITY} FROM sauda_trader",
    "REVOKE ALL ON billing_details, invoices, invoice_series, payments, payment_events, consents FROM sauda_trader",
    "REVOKE INSERT, UPDATE, DELETE ON users, plans, subscriptions, compliance_records FROM sauda_trader",
    # A row can only be locked by who may change something of it.
    "GRANT UPDATE (name) ON users TO sauda_trader",
    "GRANT UPDATE (status) ON subscriptions TO sauda_trader",
    f"REVOKE UPDATE, DELETE, TRUNCATE ON {APPEND_ONLY} FROM {', '.join(ROLES)}",
    f"REVOKE DELETE, TRUNCATE ON {KEPT} FROM {', '.join(ROLES)}",
    f"REVOKE ALL ON audit_head FROM {', '.join(ROLES)}",
    "GRANT SELECT ON audit_head TO sauda_operator",
    "REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM sauda_operator, sauda_trader",
)


def upgrade() -> None:
    op.execute(CREATE_ROLES)
    op.execute(CREATE_SERVICE)
    op.execute(USER_ID)
    for grant in GRANTS:
        op.execute(grant)
    for table, own in OWN.items():
        # A writer may only make rows that are the user's own; a deed is recorded under the doer's name.
        written = "actor_id = sauda_user_id()" if table == "audit_log" else own
        if table == "trading_states":
            written = "scope = 'user' AND key = sauda_user_id()::text"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own ON {table} TO sauda_app USING ({own}) WITH CHECK ({written})")
        op.execute(
            f"CREATE POLICY everybody ON {table} TO sauda_identity, sauda_operator, sauda_trader "
            "USING (true) WITH CHECK (true)"
        )


def downgrade() -> None:
    for table in OWN:
        op.execute(f"DROP POLICY own ON {table}")
        op.execute(f"DROP POLICY everybody ON {table}")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.execute("DROP FUNCTION sauda_user_id()")
    for role in ROLES[1:]:
        op.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}")
        op.execute(f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role}")
        op.execute(f"REVOKE ALL ON SCHEMA public FROM {role}")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO sauda_app")
    op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON {APPEND_ONLY} FROM sauda_app")
