"""``python -m intermodal``: the command line."""

import sys

from intermodal.cli.main import main

sys.exit(main())
