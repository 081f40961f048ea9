"""``python -m fastdrop.bench``."""

import sys

from fastdrop.bench.cli import main

sys.exit(main())
