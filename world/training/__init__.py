"""How the small bases are made: autoencoder, bases A and B, their adapter and scenery, export into assets/demo."""
