"""``python -m timm_conformance.cli``."""

from .main import main

main()
