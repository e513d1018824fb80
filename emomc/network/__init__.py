"""Tracing a torch module into layers, loop bounds and edges."""
