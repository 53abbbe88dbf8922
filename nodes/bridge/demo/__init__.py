"""The small bases that ship with the pack, their adapter and their scenery."""
