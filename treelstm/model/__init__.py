"""The encoder: equations (`child_sum`), module (`encoder`), objectives, files."""
