"""Contrastive and self-supervised learning."""
