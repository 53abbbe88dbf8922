"""How the small world looks: sprites, people, canvases and their captions, objects, concepts, the demo's pictures."""
