"""Implicit: a generator that is judged by a critic; samples, but no likelihood."""
