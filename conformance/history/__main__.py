"""``python -m timm_conformance.history``."""

from .fixes import main

main()
