"""Payments, invoices and whom they name; and the door at which the payment provider knocks."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse

from backend.api.deps import AccountHolder, CurrentUser, Public, Session, State
from backend.api.documentation import documented
from backend.api.idempotency import IdempotentRoute
from backend.api.schemas.billing import (
    CheckoutReply,
    DetailsBody,
    DetailsView,
    InvoicesReply,
    InvoiceView,
    PaymentsQuery,
    PaymentsReply,
    PaymentView,
    VerifyBody,
    WebhookReply,
)
from backend.api.schemas.common import ID_MAX, PageQuery, next_cursor
from backend.db import OPERATOR_ROLE, acting_as
from backend.services import invoice_service, payment_service

router = APIRouter(prefix="/v1", tags=["billing"], route_class=IdempotentRoute)
webhooks = APIRouter(prefix="/v1/webhooks", tags=["billing"])

RowId = Annotated[int, Path(ge=1, le=ID_MAX)]
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}


@router.get("/payments", **documented("list_payments", 401, 403))
async def list_payments(query: Annotated[PaymentsQuery, Query()], user: CurrentUser, session: Session) -> PaymentsReply:
    """What was asked of you and what you paid, newest first."""
    rows = await payment_service.payments_of(session, user.id, query.status, query.before_id, query.limit + 1)
    return PaymentsReply(
        payments=[PaymentView.of(row) for row in rows[: query.limit]],
        next_cursor=next_cursor([row.id for row in rows], query.limit),
    )


@router.post("/payments/verify", **documented("verify_payment", 401, 403, 404, 409, 502, 503))
async def verify_payment(body: VerifyBody, caller: AccountHolder, state: State) -> PaymentView:
    """Hand in what Razorpay's Checkout gave the page. Until Razorpay has captured the money the payment stays
    `created`; its webhook completes it."""
    with acting_as(OPERATOR_ROLE):
        payment = await payment_service.verify(
            state.sessions,
            state.billing,
            caller.user.id,
            body.razorpay_order_id,
            body.razorpay_payment_id,
            body.razorpay_signature,
            state.security.now(),
        )
    return PaymentView.of(payment)


@router.post("/payments/{payment_id}/checkout", **documented("open_checkout", 401, 403, 404, 409, 502, 503))
async def open_checkout(payment_id: RowId, caller: AccountHolder, state: State) -> CheckoutReply:
    """How to pay what is asked. Repeating it opens the same order: nothing is paid twice."""
    with acting_as(OPERATOR_ROLE):
        payment, opened = await payment_service.checkout(state.sessions, state.billing, caller.user.id, payment_id)
    return CheckoutReply.of(payment, opened)


@router.get("/billing/details", **documented("get_billing_details", 401, 403, 404))
async def get_billing_details(user: CurrentUser, session: Session) -> DetailsView:
    """Whom your invoices name."""
    return DetailsView.of(await invoice_service.details_of(session, user.id))


@router.put("/billing/details", **documented("replace_billing_details", 401, 403))
async def replace_billing_details(body: DetailsBody, caller: AccountHolder, session: Session) -> DetailsView:
    """Set whom later invoices name; the state decides between CGST with SGST and IGST."""
    row = await invoice_service.replace_details(
        session, caller.actor, caller.user.id, body.name, body.address, body.state_code, body.gstin
    )
    return DetailsView.of(row)


@router.get("/invoices", **documented("list_invoices", 401, 403))
async def list_invoices(page: Annotated[PageQuery, Query()], user: CurrentUser, session: Session) -> InvoicesReply:
    """Your invoices, newest first. None are issued where the deployment names no seller."""
    rows = await invoice_service.invoices_of(session, user.id, page.before_id, page.limit + 1)
    return InvoicesReply(
        invoices=[InvoiceView.of(row) for row in rows[: page.limit]],
        next_cursor=next_cursor([row.id for row in rows], page.limit),
    )


@router.get("/invoices/{invoice_id}", **documented("get_invoice", 401, 403, 404))
async def get_invoice(invoice_id: RowId, user: CurrentUser, session: Session) -> InvoiceView:
    """One of your invoices."""
    return InvoiceView.of(await invoice_service.invoice_of(session, user.id, invoice_id))


@router.get(
    "/invoices/{invoice_id}/page",
    response_class=HTMLResponse,
    response_model=str,
    **documented("get_invoice_page", 401, 403, 404, media_type="text/html"),
)
async def get_invoice_page(invoice_id: RowId, user: CurrentUser, session: Session) -> HTMLResponse:
    """One of your invoices as a page to print; it loads nothing."""
    invoice = await invoice_service.invoice_of(session, user.id, invoice_id)
    return HTMLResponse(invoice_service.page_of(invoice), headers=PAGE_HEADERS)


@webhooks.post("/razorpay", dependencies=[Public], **documented("hear_razorpay", 401, 409, 503))
async def hear_razorpay(request: Request, state: State) -> WebhookReply:
    """Razorpay's messages, signed in X-Razorpay-Signature over the raw body. A repeated or late one changes nothing;
    unknown kinds are kept and ignored."""
    headers = request.headers
    event = state.billing.provider.event(
        await request.body(), headers.get("x-razorpay-signature", ""), headers.get("x-razorpay-event-id", "")
    )
    with acting_as(OPERATOR_ROLE):
        outcome = await payment_service.hear(state.sessions, state.billing, event, state.security.now())
    return WebhookReply(outcome=outcome)
