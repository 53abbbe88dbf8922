"""How the small base, its pictures and its evaluator are made. Not part of the registry archive."""
