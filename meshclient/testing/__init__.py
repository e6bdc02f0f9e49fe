"""What tests of your own policies need: fake time, scripted chance, calls without a network.

Names only; nothing here is imported by the rest of the library.
"""

from meshclient.testing.clock import FakeClock
from meshclient.testing.play import PlayedCall, request, run_call
from meshclient.testing.scripted import ScriptedRandom

__all__ = ["FakeClock", "PlayedCall", "ScriptedRandom", "request", "run_call"]
