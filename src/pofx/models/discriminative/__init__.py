"""Discriminative: p(y | x)."""
