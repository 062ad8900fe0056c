"""`python -m eval_harness`: what `accelerate launch -m` starts."""

import sys

from eval_harness.cli.app import main

sys.exit(main())
