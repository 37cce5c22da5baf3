"""Keeps mail: the only SQL."""
