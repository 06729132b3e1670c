"""Examples of logging in, sessions, passwords and e-mail addresses."""

from typing import Any

Json = dict[str, Any]

_LOGIN: Json = {"email": "asha@example.com", "password": "correct horse battery"}
_TOKEN = "kq3p…"  # noqa: S105 (not one)
_TOKENS: Json = {
    "access_token": "eyJhbGciOi…",
    "token_type": "bearer",
    "expires_in_s": 600,
    "refresh_token": _TOKEN,
    "session_id": 31,
    "session_expires_at": "2026-04-01T09:00:00+05:30",
}
_SESSION: Json = {
    "id": 31,
    "device": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "ip": "203.0.113.7",
    "created_at": "2026-03-02T09:00:00+05:30",
    "last_used_at": "2026-03-02T10:10:00+05:30",
    "expires_at": "2026-04-01T09:00:00+05:30",
    "second_factor": True,
    "current": True,
}


def _says(message: str) -> Json:
    return {"message": message}


REQUESTS: dict[str, Json] = {
    "register": _LOGIN | {"name": "Asha"},
    "login": _LOGIN,
    "refresh": {"refresh_token": _TOKEN},
    "logout": {"refresh_token": _TOKEN},
    "step_up": {"code": "492039"},
    "change_password": {
        "current_password": "correct horse battery",
        "new_password": "a quiet river 4 stones",
    },
    "ask_password_reset": {"email": "asha@example.com"},
    "reset_password": {"token": _TOKEN, "password": "a quiet river 4 stones"},
    "verify_email": {"token": _TOKEN},
    "change_email": {"email": "asha@example.org"},
}

ANSWERS: dict[str, Json] = {
    "register": _says("We have sent a mail to this address. If it is new here, you can log in now."),
    "login": _TOKENS,
    "refresh": _TOKENS,
    "logout": _says("This login has ended."),
    "step_up": {"proved_until": "2026-03-02T10:20:00+05:30"},
    "change_password": {"sessions_ended": 2},
    "ask_password_reset": _says("If this address has an account, a mail with a link is on its way."),
    "reset_password": _says("The password is set: log in with it."),
    "send_verification": _says("A mail with a link is on its way; it works for 24 hours."),
    "verify_email": {"email": "asha@example.com"},
    "change_email": _says("A mail with a link is on its way to the new address; it works for 24 hours."),
    "list_sessions": {"sessions": [_SESSION]},
    "end_session": _says("The login has ended."),
    "end_other_sessions": {"sessions_ended": 2},
}
