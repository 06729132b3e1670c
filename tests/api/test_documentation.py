"""Every operation is documented, declares who may call it, and gives an example that is true to its model."""

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from backend.api.app import ROUTERS, access_of, require_access
from backend.api.deps import CurrentUser
from backend.api.examples import ANSWERS, REQUESTS
from tests.api.conftest import Gateway

ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]

ACCESS = {
    "public": {
        "register",
        "login",
        "refresh",
        "logout",
        "ask_password_reset",
        "reset_password",
        "verify_email",
        "list_plans",
        "list_notices",
        "hear_razorpay",
        "hear_broker",
        "return_from_broker",
        "get_quotes",
        "get_bars",
        "get_predictions",
        "explain_prediction",
        "list_strategies",
        "get_current_models",
        "get_scoreboard",
        "list_frozen_predictions",
        "get_market_status",
        "list_actions",
        "stream_quotes",
        "get_universe",
        "list_quality_findings",
        "get_health",
        "get_health_unversioned",
    },
    "current_user": {
        "get_me",
        "get_subscription",
        "preview_subscription",
        "list_payments",
        "get_billing_details",
        "list_invoices",
        "get_invoice",
        "get_invoice_page",
        "list_broker_accounts",
        "get_broker_credentials",
        "get_readiness",
        "get_auto_trading_status",
        "list_auto_trades",
        "get_auto_trading_analytics",
        "list_auto_trading_decisions",
        "get_auto_trading_market_status",
        "list_orders",
        "get_order",
        "list_backtests",
        "get_backtest",
        "get_backtest_report",
        "stream_backtest",
        "get_trading_state",
        "get_live",
        "list_own_audit",
    },
    "trading_user": {
        "cancel_order",
        "create_backtest",
        "disable_auto_trading",
        "place_order",
        "pull_kill_switch",
        "reactivate_trading",
        "withdraw_live",
        "replace_auto_trading_settings",
        "withdraw_backtest",
    },
    "paid_portfolio": {"open_broker_account"},
    "paid_auto_trading": {"enable_auto_trading"},
    "fresh_holder": {
        "confirm_live",
        "set_broker_credentials",
        "make_sandbox_key",
        "change_email",
        "begin_second_factor",
        "confirm_second_factor",
        "create_api_key",
        "export_my_data",
        "erase_me",
    },
    "account_holder": {
        "get_second_factor",
        "remove_second_factor",
        "renew_recovery_codes",
        "list_api_keys",
        "revoke_api_key",
        "list_consents",
        "answer_notice",
        "change_broker_account",
        "begin_broker_login",
        "finish_broker_login",
        "end_broker_login",
        "end_sandbox_key",
        "close_broker_account",
        "delete_broker_credentials",
        "step_up",
        "change_password",
        "send_verification",
        "list_sessions",
        "end_session",
        "end_other_sessions",
        "subscribe",
        "change_subscription",
        "cancel_subscription",
        "verify_payment",
        "open_checkout",
        "replace_billing_details",
    },
    "fresh_admin": {
        "activate_user",
        "deactivate_user",
        "reset_second_factor",
        "set_user_role",
        "record_compliance",
        "revoke_compliance",
        "activate_subscription",
        "create_plan",
        "replace_plan",
        "give_plan",
        "record_payment",
    },
    "support_user": {
        "get_last_cycle",
        "get_user",
        "list_all_payments",
        "list_readiness",
        "list_calendar_corrections",
        "list_audit",
        "list_compliance",
        "list_cycles",
        "list_subscriptions",
        "list_trading_states",
        "list_unknown_orders",
        "list_user_sessions",
        "list_users",
        "why_no_trade",
    },
    "admin_user": {
        "correct_calendar",
        "end_user_session",
        "end_user_sessions",
        "force_reconcile",
        "lift_trading_state",
        "pause_trading",
        "pull_admin_kill_switch",
        "settle_unknown_order",
    },
}


def test_each_route_has_the_access_it_should_have() -> None:
    found = {access: {r.operation_id for r in ROUTES if access_of(r) == access} for access in ACCESS}
    assert found == ACCESS
    assert sum(map(len, ACCESS.values())) == len(ROUTES)


def test_a_route_without_a_declared_access_is_refused() -> None:
    router = APIRouter()

    @router.get("/open")
    async def forgotten() -> int:
        return 1

    with pytest.raises(LookupError, match="forgotten"):
        require_access(router)

    closed = APIRouter()

    @closed.get("/closed")
    async def guarded(user: CurrentUser) -> int:
        return user.id

    require_access(closed)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.operation_id)
def test_the_example_answer_is_true_to_its_model(route: APIRoute) -> None:
    assert route.operation_id is not None
    adapter = TypeAdapter(route.response_model)
    answer = adapter.validate_python(ANSWERS[route.operation_id])
    assert adapter.dump_python(answer, mode="json", by_alias=True) == ANSWERS[route.operation_id]


@pytest.mark.parametrize("route", [r for r in ROUTES if r.body_field], ids=lambda r: r.operation_id)
def test_the_example_request_is_true_to_its_model(route: APIRoute) -> None:
    assert route.body_field is not None
    assert route.operation_id is not None
    TypeAdapter(route.body_field.field_info.annotation).validate_python(REQUESTS[route.operation_id])


async def test_the_openapi_document(gateway: Gateway) -> None:
    reply = await gateway.client.get("/openapi.json")
    document = reply.json()
    assert document["info"]["title"] == "Sauda"
    assert "**simulated**" in document["info"]["description"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(ROUTES)
    for operation in operations:
        assert operation["tags"]
        assert operation["description"]
        good = next(r for status, r in operation["responses"].items() if status.startswith("2"))
        assert all("example" in content for content in good["content"].values())
        for status, response in operation["responses"].items():
            if status >= "400":
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}
        if "requestBody" in operation:
            assert "example" in operation["requestBody"]["content"]["application/json"]
    protected = [o for o in operations if "security" in o]
    assert len(protected) == len(ROUTES) - len(ACCESS["public"])


async def test_the_docs_page_is_there(gateway: Gateway) -> None:
    reply: httpx.Response = await gateway.client.get("/docs")
    assert reply.status_code == 200
    assert "Sauda" in reply.text
