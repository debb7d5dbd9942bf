"""Text and where it comes from: corpora, tokenizers, datasets, counts of n-grams. It knows no model."""
