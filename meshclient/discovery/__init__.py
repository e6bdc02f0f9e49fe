"""Where endpoints come from: static lists, host names, SRV names.

Entry point: :class:`~meshclient.discovery.base.Discoverer`. No policy, no
snapshot and no call in here; only :mod:`meshclient.model` is imported.
"""
