"""Regions, layered texts and routed concepts in the host's sampling.

finding <- routing <- payload <- attention <- texts <- blend <- wrappers <- place; control and preprocess serve Region
Control, found serves Found Places; words and readings are what place needs to do without regions, learning makes a
reading.
"""
