"""Where a channel's history lives beyond this process, and what keeps channels in step with it.

Knows no client, no stream and no channel: it delivers to whoever it is handed. `base` is the contract; each
kind of store has a module of its own, which alone imports its client.
"""
