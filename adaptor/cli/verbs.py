"""What a family of verbs is given to declare them with."""

from argparse import ArgumentParser
from typing import Any, Protocol


class Verbs(Protocol):
    """argparse's collection of sub-commands, whose own class has no public name.

    A verb's parser must `set_defaults(run=...)`: called with the parsed arguments, returns the exit status or None.
    """

    def add_parser(self, *args: Any, **kwargs: Any) -> ArgumentParser: ...
