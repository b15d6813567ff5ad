"""Standalone scripts that show one failure with torch and timm alone, each run before it is handed out."""
