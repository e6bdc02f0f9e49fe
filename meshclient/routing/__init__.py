"""From a request head to a route, and what the route does to the request.

Pure decisions on values: no clock, no randomness of its own, no I/O.
"""

from meshclient.routing.route import CompiledRoute
from meshclient.routing.table import CompiledHost, RouteTable

__all__ = ["CompiledHost", "CompiledRoute", "RouteTable"]
