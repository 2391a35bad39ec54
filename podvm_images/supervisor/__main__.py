"""PID 1 of a pod VM: `podvm_images.supervisor` as a program."""

import os
import signal
import sys
import time

from podvm_images.supervisor import drivers, kernel, machine, media, scratch, services
from podvm_images.supervisor.cards import Cards
from podvm_images.supervisor.console import say
from podvm_images.supervisor.keeper import Keeper
from podvm_images.supervisor.loop import Loop


def main() -> int:
    """Returns when it was told to end (SIGTERM), after which PID 1 powers the machine off."""
    if os.getpid() == 1:
        machine.mount_all()
    loop = Loop()
    machine.settle()
    keeper = Keeper(loop, services.table(os.path.exists))
    loop.on(signal.SIGCHLD, keeper.reap)
    loop.on(signal.SIGTERM, keeper.end)
    loop.on(signal.SIGINT, keeper.end)
    drivers.Drivers(loop, keeper.run, lambda: machine.mount_some(machine.REPORTS)).begin()
    for line in services.loudly(os.path.exists):
        say(line)
    keeper.look()
    Cards(loop, lambda: None).look()
    media.Media(loop).look()
    scratch.Scratch(loop, keeper.run).look()
    loop.run()
    say("this VM ends")
    return 0


def first() -> None:
    """As PID 1: whatever happens, the machine ends with it, and says why. The kernel would panic without a word."""
    try:
        main()
    except BaseException as error:
        say(f"this VM cannot go on: {type(error).__name__}: {error}")
        time.sleep(1)  # serial consoles that are read over a network lose what comes right before the end
    kernel.power_off()


if __name__ == "__main__":
    first() if os.getpid() == 1 else sys.exit(main())
