"""The only place that touches comfy.*, folder_paths and server.

Turns the host's objects (MODEL, CLIP, folders, progress) into what mixofshow_core works on, and back.
Holds no node classes and no numerical methods.
"""
