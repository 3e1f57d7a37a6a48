"""Metrics: pure functions of embeddings and scores."""
