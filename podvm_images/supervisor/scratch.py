"""Space for the pod's images beside the VM's memory, where Bind asked for it (scratch-space.marker)."""

import os
from typing import Final

from podvm_images.supervisor import services
from podvm_images.supervisor.console import say
from podvm_images.supervisor.loop import Loop

LOOK: Final = 0.05


class Scratch:
    """Tells that it is ready by services.SCRATCH_READY, for which the agent waits."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def look(self) -> None:
        if not os.path.exists(services.BOUND):
            self._loop.after(LOOK, self.look)
        elif os.path.exists(services.SCRATCH_MARKER):
            say("scratch space was asked for; this image makes none yet: images stay in memory")
            self._ready()

    def _ready(self) -> None:
        os.makedirs(os.path.dirname(services.SCRATCH_READY), exist_ok=True)
        with open(services.SCRATCH_READY, "w"):
            pass
