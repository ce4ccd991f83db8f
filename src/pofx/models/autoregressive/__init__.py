"""Explicit, tractable: p(x) = ∏ p(x_i | x_<i)."""
