"""Losses that methods share: pure functions."""
