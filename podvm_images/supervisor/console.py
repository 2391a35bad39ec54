"""What this VM says on its console. The host reads it: never a secret, nor anything of the pod's."""

import sys
import time


def say(what: str) -> None:
    """One line, with the seconds since the VM's power-on as its kernel counts them."""
    sys.stderr.write(f"podvm [{time.clock_gettime(time.CLOCK_BOOTTIME):8.3f}] {what}\n")
    sys.stderr.flush()
