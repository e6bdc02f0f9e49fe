"""The values that every part of the library speaks in: frozen, slotted, hashable.

No I/O, no clock, no randomness, no client library, and no import from any
other package of meshclient.
"""
