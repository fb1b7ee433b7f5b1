"""`python -m nestling` is `nestling`."""

import sys

from nestling.cli.main import main

sys.exit(main())
