"""Explicit, approximate: log p(x) ≥ E_q[log p(x, z) − log q(z | x)]."""
