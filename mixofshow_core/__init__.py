"""Mathematics, data types and file formats of Mix-of-Show, on torch modules alone.

Lives here: everything that can be tested without ComfyUI. May not live here: any import of the host.
"""
