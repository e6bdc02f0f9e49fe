"""What a call tells others: the headers that tie it to the request it is made for.

One module per header format; :mod:`~meshclient.telemetry.capture` reads an inbound request,
:mod:`~meshclient.telemetry.propagation` keeps it and adds to outbound ones. Nothing here
decides about a call, and OpenTelemetry is never loaded from here.
"""
