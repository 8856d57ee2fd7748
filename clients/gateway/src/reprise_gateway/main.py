"""The program `reprise-gateway`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Dict

import uvicorn
from reprise_client import AsyncClient, Tls
from reprise_gateway import app, chat_template


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="reprise-gateway",
                                description="OpenAI-compatible HTTP front of a Reprise server.")
    p.add_argument("--listen", default="127.0.0.1:8000", metavar="HOST:PORT")
    p.add_argument("--port-file", metavar="FILE", help="gets the port once requests are taken")
    p.add_argument("--tls-cert", metavar="FILE", help="serve HTTPS; with --tls-key")
    p.add_argument("--tls-key", metavar="FILE")
    p.add_argument("--server", default="", metavar="HOST:PORT[,...]",
                   help="the Reprise servers (default: REPRISE_SERVER, or 127.0.0.1:7420)")
    p.add_argument("--server-tls", action="store_true", help="reach them with TLS")
    p.add_argument("--server-ca", metavar="FILE", help="whose certificates they must have")
    p.add_argument("--server-name", metavar="NAME", help="that their certificate must be for")
    p.add_argument("--server-cert", metavar="FILE", help="shown to them; with --server-key")
    p.add_argument("--server-key", metavar="FILE")
    p.add_argument("--allow-plaintext-token", action="store_true",
                   help="pass on bearer tokens without TLS to other machines too")
    p.add_argument("--tokenizer-config", action="append", default=[], metavar="[MODEL=]FILE",
                   help="tokenizer_config.json, or a chat template alone (.jinja)")
    p.add_argument("--max-body-bytes", type=int, default=8 * 2**20)
    p.add_argument("--max-choices", type=int, default=128, help="answers of one request")
    p.add_argument("--max-connections", type=int, default=1024, help="more get 503")
    p.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return p


def settings_of(arguments: argparse.Namespace) -> app.Settings:
    """Raises OSError or ValueError for files that cannot be used."""
    configs: Dict[str, chat_template.TokenizerConfig] = {}
    for text in arguments.tokenizer_config:
        model, equals, path = text.partition("=")
        model, path = (model, path) if equals else ("", text)
        configs[model] = chat_template.load(pathlib.Path(path))
        chat_template.template_of(configs[model])  # that it can be read
    tls = None
    if arguments.server_tls or arguments.server_ca or arguments.server_cert:
        tls = Tls(ca=arguments.server_ca, certificate=arguments.server_cert,
                  key=arguments.server_key, server_name=arguments.server_name)
        tls.credentials()

    def connect() -> AsyncClient:
        # Who sends no token has none: one in this process' environment is nobody's.
        return AsyncClient(arguments.server, tls=tls, token="",
                           allow_plaintext_token=arguments.allow_plaintext_token)

    return app.Settings(connect, configs, arguments.max_body_bytes, arguments.max_choices)


class _Server(uvicorn.Server):
    """Says where it listens."""

    port_file = ""

    async def startup(self, sockets: object = None) -> None:
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.port_file and self.servers:
            port = self.servers[0].sockets[0].getsockname()[1]
            part = pathlib.Path(f"{self.port_file}.part")
            part.write_text(f"{port}\n")
            part.replace(self.port_file)


def main() -> None:
    arguments = parser().parse_args()
    host, _, port = arguments.listen.rpartition(":")
    if not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        sys.exit(f"reprise-gateway: --listen: HOST:PORT, not {arguments.listen!r}")
    try:
        application = app.create_app(settings_of(arguments))
    except (OSError, ValueError) as error:
        sys.exit(f"reprise-gateway: {error}")
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        sys.exit("reprise-gateway: --tls-cert and --tls-key go together")
    server = _Server(
        uvicorn.Config(application, host=host.strip("[]"), port=int(port),
                       log_level=arguments.log_level, access_log=False,
                       limit_concurrency=arguments.max_connections, server_header=False,
                       ssl_certfile=arguments.tls_cert, ssl_keyfile=arguments.tls_key,
                       timeout_graceful_shutdown=30))
    server.port_file = arguments.port_file or ""
    server.run()


if __name__ == "__main__":
    main()
