"""Without density: a code and back, and no p(x)."""
