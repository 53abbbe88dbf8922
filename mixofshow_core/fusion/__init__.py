"""Fusion: second moments of layer inputs in, one set of weights for many concepts out.

Lives here: collecting, solving, reporting and storing, on any torch module.
Not here: ComfyUI, the encoding of prompts, sampling.
"""
