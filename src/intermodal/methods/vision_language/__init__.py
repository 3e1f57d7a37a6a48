"""Vision transformers, and models that see and speak."""
