"""Which tensor is which: evidence, rules, and their proof."""
