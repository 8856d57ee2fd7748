"""How a client reaches its servers: addresses, TLS, tokens, retries, keepalive."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import pathlib
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import grpc
from reprise_client import methods

DEFAULT_ADDRESS = "127.0.0.1:7420"

Token = Union[str, Callable[[], str]]


@dataclasses.dataclass(frozen=True)
class Tls:
    """Encryption. All paths are PEM files.

    Attributes:
        ca: authorities that the server's certificate must come from; none: the machine's own.
        certificate, key: what this client shows (mutual TLS); both or neither.
        server_name: name that the server's certificate must be for; none: the address's host.
    """
    ca: Optional[str] = None
    certificate: Optional[str] = None
    key: Optional[str] = None
    server_name: Optional[str] = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError for a file that cannot be read, ValueError for half a pair."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("Tls: certificate and key belong together")
        return grpc.ssl_channel_credentials(root_certificates=_read(self.ca),
                                            private_key=_read(self.key),
                                            certificate_chain=_read(self.certificate))


@dataclasses.dataclass(frozen=True)
class Retry:
    """How long a lost connection, or a server that is shutting down, is tried again.

    Attributes:
        seconds: of trying again, from the first failure. 0: never.
        first_delay, longest_delay: seconds between two tries; doubled each time.
    """
    seconds: float = 5.0
    first_delay: float = 0.1
    longest_delay: float = 2.0

    def delay(self, attempt: int) -> float:
        """Before try number `attempt`, from 1."""
        return min(self.longest_delay, self.first_delay * 2.0**min(attempt - 1, 30))


def addresses(target: Union[str, Sequence[str]]) -> List[str]:
    """The servers that `target`, or else REPRISE_SERVER, names; one or several with commas."""
    if not target:
        target = os.environ.get("REPRISE_SERVER", "") or DEFAULT_ADDRESS
    listed = target.split(",") if isinstance(target, str) else list(target)
    found = list(dict.fromkeys(address.strip() for address in listed if address.strip()))
    if not found:
        raise ValueError(f"no address in {target!r}")
    return found


def check_token_is_safe(servers: Sequence[str]) -> None:
    """Raises ValueError where a token would leave the machine unencrypted."""
    for address in servers:
        host = address.rsplit(":", 1)[0].strip("[]")
        try:
            local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = host == "localhost" or address.startswith("unix:")
        if not local:
            raise ValueError(f"a token would go to {address} unencrypted: use tls=, or "
                             "allow_plaintext_token=True on a network that you trust")


def service_config(retry: bool, replicas: int) -> Dict[str, Any]:
    """gRPC's own retries, for calls that can be repeated: at once, after a connection broke. With
    several replicas the next one is a better idea than the same again."""
    config: Dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retry:
        names = [path.strip("/").split("/") for path in methods.REPEATABLE]
        config["methodConfig"] = [{
            "name": [{"service": service, "method": method} for service, method in names],
            "retryPolicy": {
                "maxAttempts": 5 if replicas == 1 else 2,  # the first one counts
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }]
    return config


def channel_options(retry: bool, replicas: int, keepalive_seconds: float,
                    tls: Optional[Tls]) -> List[Tuple[str, Any]]:
    """Pings stay well above the 10 seconds that the server allows."""
    options: List[Tuple[str, Any]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.service_config", json.dumps(service_config(retry, replicas))),
        # A server that restarts should be found soon.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if keepalive_seconds > 0:
        if keepalive_seconds < 10:
            raise ValueError("keepalive_seconds: 0 for none, or at least 10")
        options += [("grpc.keepalive_time_ms", int(keepalive_seconds * 1000)),
                    ("grpc.keepalive_timeout_ms", 10_000),
                    ("grpc.keepalive_permit_without_calls", 1),
                    ("grpc.http2.max_pings_without_data", 0)]
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def _read(path: Optional[str]) -> Optional[bytes]:
    return None if path is None else pathlib.Path(path).read_bytes()
