"""Which worker of xdist's begins with what.

Its scheduler `worksteal` cuts the list of tests into equal shares, one for each worker, who begins at the head of its
own and later takes from the tails of others'. So what takes long stands at the heads: begun last, it would leave all
workers but one without work.
"""

from collections.abc import Sequence
from typing import Final

# The head of a test's name: whose share it opens. In order; two of one share stand there one after the other. What
# starts many processes is one worker's, so that they do not take each other's time.
_OPENS: Final = {"tests/e2e/test_load.py": 0, "tests/e2e/test_storm.py": 1, "tests/sim/": 2, "tests/e2e/": 0}


def dealt(names: Sequence[str], workers: int) -> list[int]:
    """The indices of `names` in the order that opens every worker's share as it should."""
    left = list(range(len(names)))
    shares: list[list[int]] = [[] for _ in range(workers)]
    for head, worker in _OPENS.items():
        shares[worker % workers] += [index for index in left if names[index].startswith(head)]
        left = [index for index in left if not names[index].startswith(head)]
    order: list[int] = []
    for number, share in enumerate(shares):
        size = (len(names) - len(order)) // (workers - number)
        room = max(0, size - len(share))
        order += share + left[:room]
        left = left[room:]
    return order
