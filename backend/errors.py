"""The exception tree. Foreign errors are translated into it once, at the edge; the API turns it into problem+json.

SaudaError
├── NotFoundError            404  the thing does not exist, or is not yours
├── ConflictError            409  it contradicts what stands already
├── InvalidRequestError      422  well-formed, but it cannot be meant
├── NotAuthenticatedError    401  no valid token
├── NotAllowedError          403  the plan or role does not include it
├── TooManyRequestsError     429  too often; it says when to come again
├── UpstreamError            503  ml_service or data_service did not answer in time
└── BrokerError                   (backend.brokers.base)
"""


class SaudaError(Exception):
    """Anything that Sauda itself raises. `code` is stable and machine-readable; the message is for people."""

    status = 500
    code = "internal_error"
    title = "Internal error"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code


class NotFoundError(SaudaError):
    status, code, title = 404, "not_found", "Not found"


class ConflictError(SaudaError):
    status, code, title = 409, "conflict", "Conflict"


class InvalidRequestError(SaudaError):
    status, code, title = 422, "invalid_request", "Invalid request"


class NotAuthenticatedError(SaudaError):
    status, code, title = 401, "not_authenticated", "Not authenticated"


class NotAllowedError(SaudaError):
    status, code, title = 403, "not_allowed", "Not allowed"


class TooManyRequestsError(SaudaError):
    """`retry_after_s`: seconds after which it is worth trying again."""

    status, code, title = 429, "too_many_requests", "Too many requests"

    def __init__(self, detail: str, *, code: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(detail, code=code)
        self.retry_after_s = retry_after_s


class UpstreamError(SaudaError):
    status, code, title = 503, "upstream_unavailable", "Service unavailable"
