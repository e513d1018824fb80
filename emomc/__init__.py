"""Evolutionary multi-objective compression of PyTorch CNNs for described accelerators."""
