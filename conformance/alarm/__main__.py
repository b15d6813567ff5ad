"""``python -m timm_conformance.alarm``."""

import sys

from .unknown_formats import main

sys.exit(main(sys.argv[1:]))
