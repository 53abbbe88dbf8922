"""How the small bases are made: autoencoder, bases A and B, their adapter, export into assets/demo."""
