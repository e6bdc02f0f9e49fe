"""Differential tests: the same requests through the real Envoy and through meshclient."""
