"""The wire: engines that carry one HTTP request to one chosen endpoint.

Drivers import :mod:`meshclient.transport.interface`, an engine and
:mod:`meshclient.transport.tls`. No policy, no client library and no choice of
endpoint belongs into this package.
"""
