"""Files of others, and ours, where the host's own code is needed: reading, writing, and the card of what was read."""
