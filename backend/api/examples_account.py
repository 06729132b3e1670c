"""Examples of the second factor, API keys, notices and data rights."""

from typing import Any

Json = dict[str, Any]

_CODES = ["QX4M-7TJA-2KCD-WLPE-ZZ5V-3RFN", "B2NH-YQ6S-KD4U-MX7A-TVJC-5WEP"]
_KEY: Json = {
    "id": 3,
    "name": "nightly report",
    "prefix": "sauda_9f3c21ab",
    "scopes": ["read"],
    "paper_only": True,
    "networks": ["203.0.113.7/32"],
    "created_at": "2026-03-02T10:00:00+05:30",
    "expires_at": "2026-05-31T10:00:00+05:30",
    "last_used_at": None,
    "last_used_ip": None,
}
_NOTICE: Json = {
    "notice": "risk_disclosure",
    "title": "Risks of algorithmic trading",
    "version": "3b1f0c9d2e5a7781",
    "needed_for": "live trading",
    "text": "# Risks of algorithmic trading\n\n- You can lose money …",
}
_CONSENT: Json = {
    "notice": "risk_disclosure",
    "version": "3b1f0c9d2e5a7781",
    "given": True,
    "current": True,
    "at": "2026-03-02T10:00:00+05:30",
}
_PASSWORD = "correct horse battery"  # noqa: S105 (an example)
MISSING: Json = {"notice": "risk_disclosure", "version": "3b1f0c9d2e5a7781", "needed_for": "live trading"}

REQUESTS: dict[str, Json] = {
    "confirm_second_factor": {"code": "492039"},
    "remove_second_factor": {"code": "492039"},
    "renew_recovery_codes": {"code": "492039"},
    "create_api_key": {
        "name": "nightly report",
        "scopes": ["read"],
        "paper_only": True,
        "networks": ["203.0.113.7/32"],
        "expires_in_days": 90,
    },
    "answer_notice": {"notice": "risk_disclosure", "version": "3b1f0c9d2e5a7781", "given": True},
    "erase_me": {"password": _PASSWORD, "end_subscription": False},
}

ANSWERS: dict[str, Json] = {
    "get_second_factor": {"confirmed_at": "2026-03-02T10:00:00+05:30", "recovery_codes_left": 9},
    "begin_second_factor": {
        "secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
        "otpauth_uri": "otpauth://totp/Sauda:asha%40example.com?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP&issuer=Sauda",
    },
    "confirm_second_factor": {"recovery_codes": _CODES, "sessions_ended": 1},
    "remove_second_factor": {"sessions_ended": 1},
    "renew_recovery_codes": {"recovery_codes": _CODES},
    "create_api_key": {"key": "sauda_9f3c21ab_kq3p…", "api_key": _KEY},
    "list_api_keys": {
        "api_keys": [_KEY | {"last_used_at": "2026-03-02T10:15:00+05:30", "last_used_ip": "203.0.113.7"}]
    },
    "revoke_api_key": {"message": "The key is revoked."},
    "list_notices": {"notices": [_NOTICE]},
    "list_consents": {"consents": [_CONSENT]},
    "answer_notice": {"consents": [_CONSENT]},
    "export_my_data": {
        "exported_at": "2026-03-02T04:30:00Z",
        "user_id": 7,
        "left_out": {"outbox": "mails on their way to the user; they are emptied as they are delivered"},
        "tables": {"users": [{"id": 7, "email": "asha@example.com", "name": "Asha"}], "orders": []},
    },
    "erase_me": {
        "erased_at": "2026-03-02T10:00:00+05:30",
        "kept": [
            {
                "what": "invoices and payments, with the buyer they name",
                "years": 8,
                "why": "books of account (Companies Act 2013, section 128(5)) and of GST (CGST Act 2017, section 36)",
            }
        ],
        "message": "Your account is erased, and your login has ended. The address can be used for a new account.",
    },
}
