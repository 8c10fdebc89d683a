"""``python -m innv_ext`` is the command ``innv-ext``."""

import sys

from innv_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
