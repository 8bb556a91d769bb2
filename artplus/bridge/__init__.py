"""All code that imports ART; no other part of artplus does."""
