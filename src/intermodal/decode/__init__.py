"""Sequences made a token at a time: one protocol for the models that can, and the ways to choose what comes next."""
