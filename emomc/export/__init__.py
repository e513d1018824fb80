"""Compressed networks as files, loaded and exported."""
