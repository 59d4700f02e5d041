"""Where a channel's history lives beyond this process: one module for each kind of store."""
