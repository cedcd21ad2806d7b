"""Finds the rules between two architectures that name things differently, and says what it could not decide."""
