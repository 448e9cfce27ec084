"""Servers: where they listen, and the token that clients send."""

import os
import secrets
import socket
from ipaddress import ip_address
from pathlib import Path

from stages.contracts import UserError

EVERY_ADDRESS = ("0.0.0.0", "::")
HOME = Path.home() / ".rlhf-pipeline"


def find_token(variable: str, path: Path) -> tuple[str, str]:
    """The token, and how a client's shell gets it; a new one is written where nobody else reads.

    Raises:
        UserError: others may read the file, or nothing is in it.
    """
    if token := os.environ.get(variable, "").strip():
        return token, ""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    if path.stat().st_mode & 0o077:
        raise UserError(
            "the token's file may be read by others",
            got=f"{path} with mode {path.stat().st_mode & 0o777:o}",
            do=f"chmod 600 {path}, or delete it: a new token is made",
        )
    token = path.read_text().strip()
    if not token:
        raise UserError("the token's file is empty", got=str(path), do="delete it")
    return token, f"export {variable}=$(cat {path.absolute()})"


def check_port(host: str, port: int) -> None:
    """Refuse an address where nothing can listen now."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise UserError(
            f"nothing can listen at {host}:{port}",
            got=error.strerror or str(error),
            do="choose another with --port or --host",
        ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can ask there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def reached_at(host: str) -> str:
    """The name by which clients reach it."""
    return socket.gethostname() if host in EVERY_ADDRESS else host


def caution(host: str) -> list[str]:
    """What to say of an address that others reach."""
    if is_loopback(host):
        return []
    return [
        f"{host} is open to the network, and this is plain HTTP: put a proxy with TLS in front, or "
        "keep to a network you trust"
    ]
