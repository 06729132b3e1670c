"""A mail server on loopback: takes mails over a real socket, or refuses them as it is told; with TLS where given."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass
class SmtpServer:
    """What it was told (`said`), the mails it took, and how it answers: `refusal` to RCPT, `starttls` where offered."""

    port: int = 0
    refusal: str = ""
    tls: ssl.SSLContext | None = None
    said: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 loopback ESMTP\r\n")
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            self.said.append(line)
            verb = line.split(" ")[0].upper()
            writer.write(self._answer(verb).encode() + b"\r\n")
            await writer.drain()
            if verb == "STARTTLS" and self.tls is not None:
                await writer.start_tls(self.tls)
            elif verb == "DATA":
                self.mails.append((await reader.readuntil(b"\r\n.\r\n")).decode())
                writer.write(b"250 taken\r\n")
            elif verb == "QUIT":
                break
        writer.close()

    def _answer(self, verb: str) -> str:
        if verb == "EHLO":
            extensions = ["250-loopback", *(["250-STARTTLS"] if self.tls else []), "250 AUTH PLAIN"]
            return "\r\n".join(extensions)
        if verb == "RCPT" and self.refusal:
            return self.refusal
        answers = {"AUTH": "235 welcome", "STARTTLS": "220 go on", "DATA": "354 go on", "QUIT": "221 bye"}
        return answers.get(verb, "250 ok")


@asynccontextmanager
async def smtp_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[SmtpServer]:
    """The server on a free port, until the block ends."""
    made = SmtpServer(tls=tls)
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()


def certificate_for(host: str, folder: Path, now: datetime) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for `host`, and the file of the certificate that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, SHA256())
    )
    certificate, private = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private)
    return context, certificate
