"""What one kind of net is, said once: everything else asks here.

`family.py` and `known.py`: the rows of facts (sizes, texts, what other programs say). `net.py`: what a kind of net is
asked; `unet.py` and `cosmos.py` answer, `nets.py` tells who knows a net, `observed.py` watches one that nobody knows.
`layers.py`: the words for all of it. `text.py`: text encoders. `names.py`: names in each dialect.
"""
