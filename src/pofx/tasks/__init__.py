"""What can be done with a model: one file = one task = one function + one small frozen result.

A task takes a model and images, asks for capabilities with `require`, and never for a concrete model.
"""
