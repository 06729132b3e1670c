"""backtests: the queue and its results, how many a user asked for on a day, and how many each plan allows"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

LIMITS = ("backtests_per_day", "backtests_at_once", "backtest_combinations_max")
OF_PLANS = (("basic", 5, 1, 10), ("pro", 50, 2, 50), ("enterprise", 500, 4, 200))
"""The limits by plan; every other plan, Free among them, has none."""

GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON backtests, backtest_usage TO sauda_app",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO sauda_app",
)


def upgrade() -> None:
    _create_tables()
    for name in LIMITS:
        op.add_column("plans", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))
        op.alter_column("plans", name, server_default=None)
    plans = sa.table("plans", *map(sa.column, ["code", *LIMITS]))
    for code, *limits in OF_PLANS:
        op.execute(plans.update().where(plans.c.code == code).values(dict(zip(LIMITS, limits, strict=True))))
    for grant in GRANTS:
        op.execute(grant)


def _create_tables() -> None:
    op.create_table(
        "backtests",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "running",
                "done",
                "failed",
                "cancelled",
                name="backteststatus",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("request_key", sa.String(length=128), nullable=True),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("doing", sa.String(length=200), nullable=False),
        sa.Column("summary", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("report", sa.LargeBinary(), nullable=True),
        sa.Column("error", sa.String(length=500), nullable=True),
        sa.Column("claim", sa.String(length=64), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cancel_asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'running') = (claim IS NOT NULL)", name=op.f("ck_backtests_claimed_while_running")
        ),
        sa.CheckConstraint("(claim IS NULL) = (claimed_until IS NULL)", name=op.f("ck_backtests_claims_end")),
        sa.CheckConstraint(
            "(status IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_backtests_finished_has_an_instant"),
        ),
        sa.CheckConstraint(
            "(status = 'done') = (report IS NOT NULL AND summary IS NOT NULL)",
            name=op.f("ck_backtests_done_has_a_report"),
        ),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name=op.f("ck_backtests_failed_has_an_error")),
        sa.CheckConstraint("done >= 0 AND total >= 0 AND attempts >= 0", name=op.f("ck_backtests_not_negative")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_backtests_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backtests")),
    )
    op.create_index("ix_backtests_user_id_id", "backtests", ["user_id", "id"])
    op.create_index("ix_backtests_waiting", "backtests", ["id"], postgresql_where=sa.text("status = 'queued'"))
    op.create_index("ix_backtests_running", "backtests", ["user_id"], postgresql_where=sa.text("status = 'running'"))
    op.create_index("ix_backtests_finished_at", "backtests", ["finished_at"])
    op.create_table(
        "backtest_usage",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.CheckConstraint("used > 0", name=op.f("ck_backtest_usage_positive")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_backtest_usage_user_id")),
        sa.PrimaryKeyConstraint("user_id", "day", name=op.f("pk_backtest_usage")),
    )


def downgrade() -> None:
    op.drop_table("backtest_usage")
    op.drop_table("backtests")
    for name in LIMITS:
        op.drop_column("plans", name)
