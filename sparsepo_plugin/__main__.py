"""``python -m sparsepo_plugin``: the ``sparsepo`` command."""

import sys

from sparsepo_plugin.cli import main

sys.exit(main())
