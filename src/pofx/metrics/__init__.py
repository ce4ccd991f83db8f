"""Measures of samples and scores on plain tensors, one file each. They know nothing of models, runs or files."""
