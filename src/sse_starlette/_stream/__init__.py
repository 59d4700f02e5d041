"""One response: the feed contract, a source as a feed, the one writer, and how a stream ends."""
