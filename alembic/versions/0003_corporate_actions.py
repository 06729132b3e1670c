"""corporate actions: what was told, what each account got of it, and the same in the paper broker's own book"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JOURNALS = "'fund', 'adjust', 'reserve', 'release', 'buy', 'sell'"
ACCOUNTS = "'cash', 'reserved', 'positions', 'charges', 'pnl', 'external'"
# (table, constraint, column, its values before, what is added)
WIDENED = (
    ("ledger_entries", "journalkind", "kind", JOURNALS, "'corporate_action', 'dividend'"),
    ("ledger_entries", "ledgeraccount", "ledger_account", ACCOUNTS, "'dividends'"),
    ("ledger_balances", "ledgeraccount", "ledger_account", ACCOUNTS, "'dividends'"),
    ("paper_entries", "paperentrykind", "kind", "'deposit', 'trade', 'charges'", "'corporate_action', 'dividend'"),
    ("trading_states", "scope", "scope", "'platform', 'broker', 'strategy', 'user'", "'holding'"),
)
TABLES = "corporate_action_days, corporate_actions, account_actions, paper_actions"
GRANTS = (
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO sauda_app",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO sauda_app",
    "REVOKE UPDATE, DELETE, TRUNCATE ON paper_actions FROM sauda_app",
    "REVOKE DELETE, TRUNCATE ON account_actions, corporate_actions FROM sauda_app",
)


def upgrade() -> None:
    op.create_table(
        "corporate_action_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_corporate_action_days")),
    )
    op.create_table(
        "corporate_actions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("symbol", sa.String(length=20), nullable=False),
        sa.Column("ex_date", sa.Date(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "split",
                "bonus",
                "dividend",
                "rights",
                "demerger",
                "merger",
                "capital_reduction",
                "rename",
                "other",
                name="actionkind",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("shares_before", sa.Integer(), nullable=False),
        sa.Column("shares_after", sa.Integer(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("new_symbol", sa.String(length=20), nullable=False),
        sa.Column("close_before", sa.Numeric(precision=18, scale=4), nullable=True),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("source", sa.String(length=40), nullable=False),
        sa.Column("noted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("contradicted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corporate_actions")),
        sa.UniqueConstraint("symbol", "ex_date", "kind", name=op.f("uq_corporate_actions_symbol_ex_date_kind")),
    )
    op.create_index(
        "ix_corporate_actions_waiting",
        "corporate_actions",
        ["id"],
        postgresql_where=sa.text("done_at IS NULL OR confirmed_at IS NULL"),
    )
    op.create_index(
        "ix_corporate_actions_renames",
        "corporate_actions",
        ["new_symbol"],
        postgresql_where=sa.text("kind = 'rename'"),
    )
    op.create_table(
        "account_actions",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("action_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "applied",
                "flagged",
                name="accountactionstatus",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("shares_before", sa.Integer(), nullable=False),
        sa.Column("shares_after", sa.Integer(), nullable=False),
        sa.Column("cash", sa.Numeric(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_account_actions_account_id")),
        sa.ForeignKeyConstraint(["action_id"], ["corporate_actions.id"], name=op.f("fk_account_actions_action_id")),
        sa.PrimaryKeyConstraint("account_id", "action_id", name=op.f("pk_account_actions")),
    )
    op.create_index(
        "ix_account_actions_pending",
        "account_actions",
        ["action_id"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "paper_actions",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("shares_before", sa.Integer(), nullable=False),
        sa.Column("shares_after", sa.Integer(), nullable=False),
        sa.Column("cash", sa.Numeric(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["account_id"], ["broker_accounts.id"], name=op.f("fk_paper_actions_account_id")),
        sa.PrimaryKeyConstraint("account_id", "action", name=op.f("pk_paper_actions")),
    )
    op.add_column("auto_trades", sa.Column("dividends", sa.Numeric(), server_default=sa.text("0"), nullable=False))
    for table, name, column, values, added in WIDENED:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, f"{column} IN ({values}, {added})")
    for grant in GRANTS:
        op.execute(grant)


def downgrade() -> None:
    for table, name, column, values, _ in WIDENED:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, f"{column} IN ({values})")
    op.drop_column("auto_trades", "dividends")
    for table in ("paper_actions", "account_actions", "corporate_actions", "corporate_action_days"):
        op.drop_table(table)
