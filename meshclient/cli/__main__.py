"""``python -m meshclient.cli``: the same as the ``meshclient`` command."""

import sys

from meshclient.cli import main

if __name__ == "__main__":
    sys.exit(main())
