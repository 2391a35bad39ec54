"""The `peerpods` command: `python -m adaptor` is the same."""

import sys

from adaptor.cli import parser


def main() -> int:
    """Run the command line and return its exit status; the console script calls this."""
    return parser.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
