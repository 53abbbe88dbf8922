"""What is asked of one kind of net, and what is answered for a net that no file here knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from .layers import UNET_PREFIX, CrossAttention, LayerGroup


class NetKind:
    """Answers about live nets of one kind. This one knows none of them: it lists no layers, so nothing can be placed.

    Paths are those of the net's modules; a layer name, which has "diffusion_model." before it, does as well.
    """

    name = ""
    native_size = 1024  # pixels of the side that a net without a row was trained at
    # What Train knows to learn from, none where it does not know the net: the host's name of a sampling rule, and ours.
    # A file names the family alone ("-v" behind it: v), so what is learned by one rule must fit nets of the others.
    predictions: Mapping[str, str] = {}
    trains_text = False  # whether Train reaches through its text encoders: learned words, LoRA on them
    words_in_context = False  # whether words are learned as rows of the encoded text instead; `reads_words` says where
    finds_words = False  # whether concepts can be looked for by the attention to their words
    rewrites_text = False  # whether `read_text` makes another text of it

    def fits(self, net: nn.Module) -> bool:
        """Whether `net` is of this kind."""
        return True

    def cross_attention(self, net: nn.Module) -> tuple[CrossAttention, ...]:
        """All layers that read the text by themselves, in execution order."""
        return ()

    def groups(self, net: nn.Module) -> tuple[LayerGroup, ...]:
        """The attention linears by shared input; empty where only a forward pass tells (observed.py)."""
        return ()

    def reads_words(self, net: nn.Module) -> bool:
        """Whether words can be learned for `net`, in whichever way its kind learns them."""
        return self.trains_text or self.words_in_context

    def is_kernel(self, path: str) -> bool:
        """Whether a name is one of a convolution larger than one cell."""
        return False

    def has_places(self, path: str) -> bool:
        """Whether the inputs of a linear are places of the picture. Convolutions always have places."""
        return False

    def reads_text(self, path: str) -> bool:
        """Whether a linear reads the text itself: keys and values of cross-attention."""
        return False

    def input_of(self, path: str) -> str:
        """A name of what a linear reads: the same for linears that read the same tensor, else its own."""
        return path

    def levels(self, net: nn.Module) -> tuple[int, ...]:
        """Cells of the latent's side that one place stands for, where there is cross-attention."""
        return ()

    def places(self, path: str) -> str | None:
        """The module whose input's size [B, C, h, w] says which places the linear at `path` sees, or None."""
        return None

    def recomputed(self, net: nn.Module) -> Iterator[nn.Module]:
        """The parts that training may run again in the backward pass instead of keeping what is in them."""
        return iter(())

    def fused(self, net: nn.Module) -> Iterator[tuple[nn.Module, str, Callable]]:
        """Methods (module, name) that may have no gradient in some hosts, and the same computed in parts that have."""
        return iter(())

    def activations(self, net: nn.Module, side: int) -> Iterator[tuple[float, float]]:
        """Per block, in execution order: values that training keeps of one picture, and values of the block's input."""
        return iter(())

    def everywhere(self, net: nn.Module, latent: Tensor) -> tuple[int, int] | None:
        """Rows and columns of places that every layer sees of a latent [B, C, ..., h, w]; None if layers differ."""
        return None

    def check_text(self, extras: Mapping[str, object], where: str) -> None:
        """MixOfShowError for an encoded text that the net cannot read; `extras` came with it from the encoder."""

    def read_text(self, net: nn.Module, text: Tensor, extras: Mapping[str, object]) -> Tensor:
        """What cross-attention reads of an encoded text [R, T, C]: itself, unless the net works on it before."""
        return text


def names_under(prefix: str, members: Sequence[str]) -> tuple[str, ...]:
    """Layer names of members of one block."""
    return tuple(f"{UNET_PREFIX}{prefix}.{member}" for member in members)
