"""Events to bytes and back, values to JSON, event ids as positions. Pure: imports nothing else of ours."""
