"""`python -m podvm_images.supervisor.run NAME`: become that program, as PID 1 of profile `min` would start it.

What units of systemd call, so that both profiles have one table of programs, arguments and environments.
"""

import os
import sys
from typing import NoReturn

from podvm_images.supervisor import services


def main(arguments: list[str]) -> int:
    """Does not return but where there is no such program."""
    wanted = {each.name: each for each in services.table(os.path.exists)}
    if len(arguments) == 1 and arguments[0] in wanted:
        _become(wanted[arguments[0]])
    print(f"run: this image has {', '.join(wanted)}, not {' '.join(arguments) or 'nothing'}", file=sys.stderr)
    return 2


def _become(service: services.Service) -> NoReturn:
    command = service.command(os.path.exists)
    # What systemd tells its services (NOTIFY_SOCKET, ...) stays.
    os.execve(command[0], command, {**os.environ, **services.ENVIRONMENT, **service.environment(os.path.exists)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
