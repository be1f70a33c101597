"""`python -m minitok` is `minitok`."""

import sys

from minitok.cli import main

if __name__ == "__main__":
    sys.exit(main())
