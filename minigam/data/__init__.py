"""Text data: corpora, tokenizers, datasets and n-gram counts. Nothing here knows about models."""
