"""The small bases that ship with the pack, and their adapter."""
