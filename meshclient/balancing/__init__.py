"""Filled in by its first module."""
