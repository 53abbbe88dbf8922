"""The bottom of the bridge: MODEL and CLIP, concept words in texts, files, pictures, progress.

Imports nothing else of the bridge.
"""
