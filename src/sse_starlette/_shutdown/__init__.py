"""The streams of this process, and what ends them when the server goes down."""
