"""Rule files: equations that say which tensor is which, read both ways. Pure Python; knows no torch."""
