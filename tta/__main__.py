"""`python -m tta` is the `tta` command. All it knows is where the command lies."""

import sys

from tta.cli import main

if __name__ == "__main__":
    sys.exit(main())
