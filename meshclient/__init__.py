"""A service mesh inside the Python process."""
