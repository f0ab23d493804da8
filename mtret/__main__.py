"""`python -m mtret` is `mtret`."""

import sys

from mtret.cli import main

sys.exit(main())
