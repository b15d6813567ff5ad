"""``python -m timm_conformance.history``."""

from .command import main

main()
