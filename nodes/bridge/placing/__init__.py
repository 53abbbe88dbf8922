"""Regions, layered texts and routed concepts in the host's sampling.

routing <- payload <- attention <- blend <- wrappers <- place; control and preprocess serve Region Control.
"""
