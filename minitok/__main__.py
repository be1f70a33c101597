"""`python -m minitok` is `minitok`: the working folder, which `-m` puts first on the path, lends it no modules."""

import os
import sys

from minitok import __file__ as package

if __name__ == "__main__":
    root = os.path.dirname(os.path.dirname(os.path.abspath(package)))
    if sys.path[0] == os.getcwd() != root:
        del sys.path[0]
    from minitok.cli import main

    sys.exit(main())
