"""Learning a concept from pictures: settings, data, adapters, objective, loop, resume.

Lives here: everything about training that holds for any denoiser. May not live here: the host, files of concepts.
"""
