"""What one kind of net is, said once: everything else asks here.

`family.py` and `known.py`: the rows of facts (sizes, texts, what other programs say). `net.py`, `unet.py`: what a kind
answers about a live net; `nets.py` tells which kind it is. `layers.py`: the words for all of it. `text.py`: text
encoders. `names.py`: names in each dialect.
"""
