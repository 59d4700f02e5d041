"""Figures of streams, channels and event logs for the products that collect them, each in its own module.

Counts what `sse_starlette.observe` tells, and asks a hub for the rest when it's asked itself; nothing here is on the
way of an event. A product that isn't installed is missed in its own module alone.
"""
