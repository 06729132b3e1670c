"""strategies: which ones a user lets trade, and of each trade the logic that proposed it and the shares it moved with"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "auto_trade_settings",
        sa.Column("strategies", sa.ARRAY(sa.String(length=40)), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column("auto_trades", sa.Column("logic_version", sa.Text(), nullable=True))
    op.add_column("auto_trades", sa.Column("cluster", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("auto_trades", "cluster")
    op.drop_column("auto_trades", "logic_version")
    op.drop_column("auto_trade_settings", "strategies")
