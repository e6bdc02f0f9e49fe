"""One list of scenarios, run through every HTTP driver."""
