"""`python -m podvm_images.guest`: the guest program's command line."""

import argparse
import sys

from adaptor.telemetry import logs
from podvm_images.guest.program import Options, run


def main(arguments: list[str] | None = None) -> int:
    """Parse, set logging up, and serve; returns the exit status."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="podvm_images.guest", description="Serves this pod VM to its worker.")
    parser.add_argument(
        "--listen", type=_address, metavar="HOST:PORT", help=f"default: {defaults.host}, with the port of user-data"
    )
    parser.add_argument(
        "--agent",
        choices=("external", "development"),
        default="external",
        help="external: wait for the image's agent on its socket; development: start the stand-in (default: external)",
    )
    parser.add_argument(
        "--agent-policy",
        default=defaults.policy,
        metavar="FILE",
        help="the stand-in's policy where initdata brings none (default: it allows all)",
    )
    parser.add_argument("--agent-socket", default=defaults.agent_socket, metavar="PATH", help="default: %(default)s")
    parser.add_argument(
        "--user-data",
        action="append",
        metavar="FILE",
        help=f"read instead of the cloud's metadata service, if it exists (default: {', '.join(defaults.user_data)})",
    )
    parser.add_argument(
        "--user-data-timeout", type=float, default=defaults.user_data_timeout, metavar="SECONDS", help="default: 180"
    )
    parser.add_argument("--run-dir", default=defaults.run_dir, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--imds", default=defaults.imds_url, metavar="URL", help="default: %(default)s")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    given = parser.parse_args(arguments)
    logs.setup(level=given.log_level)
    host, port = given.listen or (defaults.host, None)
    return run(
        Options(
            host=host,
            port=port,
            development=given.agent == "development",
            policy=given.agent_policy,
            agent_socket=given.agent_socket,
            user_data=given.user_data or defaults.user_data,
            user_data_timeout=given.user_data_timeout,
            run_dir=given.run_dir,
            imds_url=given.imds,
        )
    )


def _address(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    sys.exit(main())
