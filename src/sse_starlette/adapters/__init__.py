"""Protocols of others on our channels and runs: a module for each, with an extra of its own.

Each is glue: it turns events of ours into those that a protocol's clients expect, and back. None knows anything of
tasks, sockets or event logs, and none is imported by anything else here.
"""
