"""Judging what was trained: figures beside their baselines, and panels for the report."""
