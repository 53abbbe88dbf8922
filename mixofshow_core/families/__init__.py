"""What one kind of net is, said once: the facts of SD1.5 and SDXL that readers, writers, training and placing ask for.

Lives here: `family.py` (what a row holds) and `known.py` (the rows). It imports nothing of ours but errors.
"""
