"""Examples of plans, subscriptions, payments and invoices."""

from typing import Any

Json = dict[str, Any]

_LIMITS: Json = {
    "trial_days": 14,
    "features": ["portfolio", "manual_trading", "auto_trading", "backtests", "api_keys", "live"],
    "brokers": ["paper", "zerodha", "upstox", "dhan"],
    "symbols_max": 10,
    "auto_trades_per_day": 10,
    "backtests_per_day": 5,
    "backtests_at_once": 1,
    "backtest_combinations_max": 10,
    "offered": True,
    "rank": 1,
}
_TEXT: Json = {"name": "Basic", "description": "Portfolio and up to 10 auto-trades a day."}
PLAN: Json = {
    "code": "basic",
    **_TEXT,
    "price_rupees_per_month": "499.00",
    "price_rupees_per_year": "4990.00",
    **_LIMITS,
}
_PENDING: Json = {
    "id": 11,
    "plan": "basic",
    "billing": "monthly",
    "status": "pending",
    "provider": "razorpay",
    "requested_at": "2026-03-02T09:01:00+05:30",
    "activated_at": None,
    "trial_until": None,
    "period_from": None,
    "period_until": None,
    "grace_until": None,
    "cancel_at_end": False,
    "next_plan": None,
    "next_billing": None,
    "ended_at": None,
}
_ACTIVE: Json = _PENDING | {
    "status": "active",
    "activated_at": "2026-03-02T09:05:00+05:30",
    "period_from": "2026-03-02T09:05:00+05:30",
    "period_until": "2026-04-02T09:05:00+05:30",
}
_ASKED: Json = {
    "id": 31,
    "subscription_id": 11,
    "status": "created",
    "provider": "razorpay",
    "price": "499.00",
    "credit": "0.00",
    "amount": "588.82",
    "reference": None,
    "invoice_id": None,
    "created_at": "2026-03-02T09:01:00+05:30",
    "paid_at": None,
}
_PAID: Json = _ASKED | {
    "status": "paid",
    "reference": "pay_DESlfW9H8K9uqM",
    "invoice_id": 5,
    "paid_at": "2026-03-02T09:05:00+05:30",
}
_BILL: Json = {
    "price": "499.00",
    "credit": "0.00",
    "taxable": "499.00",
    "gst_percent": "18.00",
    "cgst": "0.00",
    "sgst": "0.00",
    "igst": "89.82",
    "total": "588.82",
}
_DETAILS: Json = {
    "name": "Asha Traders",
    "address": "12 Marine Drive, Mumbai 400020",
    "state_code": "27",
    "gstin": "27AAPFU0939F1ZV",
}
_INVOICE: Json = {
    "id": 5,
    "number": "SAU/25-26/000005",
    "issued_on": "2026-03-02",
    "plan": "basic",
    "billing": "monthly",
    "period_from": "2026-03-02T09:05:00+05:30",
    "period_until": "2026-04-02T09:05:00+05:30",
    "seller": {"name": "Sauda", "address": "1 MG Road, Bengaluru 560001", "state_code": "29", "gstin": None},
    "buyer": _DETAILS,
    "sac": "998315",
    "bill": _BILL,
    "paid_at": "2026-03-02T09:05:00+05:30",
}
_GIVE: Json = {"plan": "pro", "until": "2026-12-31T23:59:59+05:30", "reason": "Thanks for the bug report."}

REQUESTS: dict[str, Json] = {
    "subscribe": {"plan": "basic", "billing": "monthly", "trial": False},
    "change_subscription": {"plan": "pro", "billing": "yearly"},
    "verify_payment": {
        "razorpay_order_id": "order_DESlLckIVRkHWj",
        "razorpay_payment_id": "pay_DESlfW9H8K9uqM",
        "razorpay_signature": "9ef4dffbfd84f1318f6739a3ce19f9d85851857ae648f114332d8401e0949a3d",
    },
    "replace_billing_details": _DETAILS,
    "create_plan": PLAN,
    "replace_plan": {name: value for name, value in PLAN.items() if name != "code"},
    "give_plan": _GIVE,
    "record_payment": {"amount": "588.82", "reference": "UTR123456789", "reason": "Seen in the bank's statement."},
}
ANSWERS: dict[str, Any] = {
    "list_plans": {"plans": [PLAN]},
    "get_subscription": {"plan": PLAN, "active": _ACTIVE, "pending": None, "payment": None},
    "preview_subscription": {
        "plan": "basic",
        "billing": "monthly",
        "begins_at": None,
        "trial_days": 0,
        "bill": _BILL,
        "why": "It begins when it is paid.",
    },
    "subscribe": {"subscription": _PENDING, "payment": _ASKED},
    "change_subscription": {"subscription": _ACTIVE | {"next_plan": "basic"}, "payment": None},
    "cancel_subscription": _ACTIVE | {"cancel_at_end": True},
    "list_payments": {"payments": [_PAID], "next_cursor": None},
    "verify_payment": _PAID,
    "open_checkout": {
        "payment": _ASKED,
        "provider": "razorpay",
        "order_id": "order_DESlLckIVRkHWj",
        "key": "rzp_live_8K9uqM",
        "amount_paise": 58882,
        "currency": "INR",
        "note": "Open Razorpay Checkout with this order and key.",
    },
    "get_billing_details": _DETAILS,
    "replace_billing_details": _DETAILS,
    "list_invoices": {"invoices": [_INVOICE], "next_cursor": None},
    "get_invoice": _INVOICE,
    "get_invoice_page": "<!doctype html>…",
    "hear_razorpay": {"outcome": "begun"},
    "create_plan": PLAN,
    "replace_plan": PLAN,
    "list_subscriptions": {
        "subscriptions": [_PENDING | {"user_id": 7, "email": "asha@example.com"}],
        "next_cursor": None,
    },
    "activate_subscription": _ACTIVE,
    "give_plan": _ACTIVE | {"provider": "comp", "cancel_at_end": True},
    "list_all_payments": {"payments": [_PAID | {"user_id": 7}], "next_cursor": None},
    "record_payment": _PAID,
}
