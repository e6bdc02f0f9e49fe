"""Real servers that tests start; each module starts one kind."""
