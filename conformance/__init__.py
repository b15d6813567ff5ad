"""Property-based conformance suite for timm's Vision Transformer checkpoint loaders."""
