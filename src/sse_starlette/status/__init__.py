"""A hub's page for those who run it: health, readiness, and live figures as a page, as JSON and as a stream.

Asks a hub for its figures, and nothing else: it counts nothing itself, so an application that doesn't mount it
pays nothing for it. It refuses to show figures to anybody until it's told who may see them.
"""
